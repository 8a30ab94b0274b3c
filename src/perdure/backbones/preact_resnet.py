"""PreAct ResNet-18 (pre-activation, identity mappings) for small images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone, image_shape, positive
from perdure.backbones.resnet import SMALLEST


class PreActUnit(nn.Module):
    """x + conv(relu(BN(conv(relu(BN(x)))))): He et al. 2016 (Identity Mappings), figure 1b.

    Where the shape changes, and in the first unit of a network (`first`), both paths start at
    relu(BN(x)); a change of shape is a 1x1 convolution without batch norm.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, first: bool = False) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        changes = stride != 1 or n_in != n_out
        self.activates_both = first or changes
        self.shortcut: nn.Module = nn.Identity()
        if changes:
            self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_in, H, W] -> [B, n_out, H / stride, W / stride], halves rounded up."""
        activated = torch.relu_(self.bn1(x))
        out: Tensor = self.conv2(torch.relu_(self.bn2(self.conv1(activated))))
        out = out + self.shortcut(activated if self.activates_both else x)
        return out


class PreActResNet18(Backbone):
    """Four stages of two pre-activation units: He et al. 2016 (Identity Mappings in Deep ResNets).

    Batch norm and ReLU follow the last unit, and the first unit activates both of its paths, as the
    paper's appendix says. The paper has no network of 18 layers: depth, widths and the stem, one
    3x3 convolution of stride 1, are those of `ResNet18`. Convolutions start as N(0, 2 / fan_out)
    and the head's biases at zero, as in the authors' code, its weights as `nn.Linear` draws them.
    11,172,170 parameters for ten classes of color images, which must be at least 8x8.

    Mammoth's network of this name (from CNLL) differs: batch norm and ReLU after the stem, none
    after the last unit, and *all* shortcuts start at relu(BN(x)), so that there are no identity
    mappings.

    The units are not called `blocks`, whose names checkpoints of other projects' ResNet-18 are
    mapped to: some of these have the same shapes and compute something else.
    """

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int, width: int = 64) -> None:
        channels, *_ = image_shape(input_shape, SMALLEST)
        super().__init__(8 * positive("backbone.width", width), n_classes)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.units = nn.ModuleList()
        n_in = width
        for stage in range(4):
            n_out = width << stage
            self.units.append(PreActUnit(n_in, n_out, 2 if stage else 1, first=not stage))
            self.units.append(PreActUnit(n_out, n_out, 1))
            n_in = n_out
        self.bn = nn.BatchNorm2d(n_in)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert isinstance(self.head, nn.Linear)
        nn.init.zeros_(self.head.bias)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        x = self.conv1(x)
        for i, unit in enumerate(self.units):
            x = unit(x)
            if i % 2:
                yield x

    def pool(self, last: Tensor) -> Tensor:
        return torch.mean(torch.relu_(self.bn(last)), dim=(2, 3))
