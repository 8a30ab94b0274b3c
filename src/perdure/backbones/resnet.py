"""ResNet-18 for small images (CIFAR stem), and the reduced one of GEM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone, image_shape, positive
from perdure.errors import UserError

SMALLEST = 8


class BasicBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + x), x projected if its shape changes: He et al. 2016."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_in, H, W] -> [B, n_out, H / stride, W / stride], halves rounded up."""
        out = torch.relu_(self.bn1(self.conv1(x)))
        return torch.relu_(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(Backbone):
    """Residual network with four stages of two basic blocks: He et al. 2016.

    As is usual for CIFAR, the stem is one 3x3 convolution of stride 1 without max-pooling, and
    weights start as `nn.Conv2d` and `nn.Linear` draw them. `width` is the number of channels of the
    first stage; it doubles from stage to stage. Images must be at least 8x8.
    """

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int, width: int = 64) -> None:
        channels, *size = image_shape(input_shape)
        if min(size) < SMALLEST:
            raise UserError(f"input_shape must be at least 8x8 for a ResNet, not {input_shape!r}.")
        super().__init__(8 * positive("backbone.width", width), n_classes)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = []
        n_in = width
        for stage in range(4):
            n_out = width << stage
            blocks += [BasicBlock(n_in, n_out, 2 if stage else 1), BasicBlock(n_out, n_out, 1)]
            n_in = n_out
        self.blocks = nn.Sequential(*blocks)

    def features(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.bn1(self.conv1(x)))
        return torch.mean(self.blocks(x), dim=(2, 3))


class ReducedResNet18(ResNet18):
    """A third of the channels: Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory)."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int, width: int = 20) -> None:
        super().__init__(input_shape, n_classes, width)
