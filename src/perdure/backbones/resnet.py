"""ResNet (residual network) for small images: ResNet-18, the reduced one of GEM, ResNet-32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.backbones.base import Backbone, image_shape, positive

SMALLEST = 8
"""Height and width in pixels below which a stage would have nothing left to halve."""


def projection(n_in: int, n_out: int, stride: int) -> nn.Module:
    """Option B of He et al. 2016: a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class ZeroPadding(nn.Module):
    """Option A of He et al. 2016: every `stride`-th pixel, and zeros for the new channels.

    Half of the zeros come before the old channels and half after, as in the released iCaRL.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (n_out - n_in) // 2
        self.padding = (0, 0, 0, 0, before, n_out - n_in - before)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_in, H, W] -> [B, n_out, H / stride, W / stride], halves rounded up."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


class BasicBlock(nn.Module):
    """relu(BN(conv(relu(BN(conv(x))))) + x): He et al. 2016.

    x passes through `shortcut` if its shape changes; `relu=False` leaves out the outer ReLU.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = shortcut(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x: float [B, n_in, H, W] -> [B, n_out, H / stride, W / stride], halves rounded up."""
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return torch.relu_(out) if self.relu else out


class ResNet(Backbone):
    """A 3x3 convolution, stages of basic blocks, the mean over pixels.

    Each stage after the first halves height and width. Its last block has no ReLU of its own: the
    network applies it after the stage, so that the maps are there without it.

    Args:
        widths: channels of each stage, integers of at least 1.
        depth: blocks a stage.
        shortcut: (n_in, n_out, stride) -> where the shape changes.
        last_relu: false leaves out the ReLU before the mean.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_classes: int,
        widths: Sequence[int],
        depth: int,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
        last_relu: bool = True,
    ) -> None:
        channels, *_ = image_shape(input_shape, SMALLEST)
        super().__init__(widths[-1], n_classes)
        self.depth = depth
        self.last_relu = last_relu
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList()
        n_in = widths[0]
        for stage, n_out in enumerate(widths):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                self.blocks.append(BasicBlock(n_in, n_out, stride, shortcut, relu=i < depth - 1))
                n_in = n_out

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        x = torch.relu_(self.bn1(self.conv1(x)))
        for i, block in enumerate(self.blocks):
            if i and i % self.depth == 0:
                yield x
                x = torch.relu(x)
            x = block(x)
        yield x

    def pool(self, last: Tensor) -> Tensor:
        return torch.mean(torch.relu(last) if self.last_relu else last, dim=(2, 3))


class ResNet18(ResNet):
    """Residual network with four stages of two basic blocks: He et al. 2016.

    As is usual for CIFAR, the stem is one 3x3 convolution of stride 1 without max-pooling, and
    weights start as `nn.Conv2d` and `nn.Linear` draw them. `width` is the number of channels of the
    first stage; it doubles from stage to stage. Images must be at least 8x8.
    """

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int, width: int = 64) -> None:
        positive("backbone.width", width)
        super().__init__(input_shape, n_classes, [width << stage for stage in range(4)], depth=2)


class ReducedResNet18(ResNet):
    """ResNet-18 with a third of the channels: Lopez-Paz & Ranzato 2017 (GEM)."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int, width: int = 20) -> None:
        positive("backbone.width", width)
        super().__init__(input_shape, n_classes, [width << stage for stage in range(4)], depth=2)


class ResNet32(ResNet):
    """The CIFAR network of He et al. 2016, section 4.2: three stages of five basic blocks.

    `width`, 2 `width` and 4 `width` channels, shortcuts without parameters (option A); 464,154
    parameters for ten classes. Convolutions start as N(0, 2 / fan_in), He et al. 2015, as the paper
    says; the head, of which it says nothing, as `nn.Linear` draws it, with biases zero. Images must
    be at least 8x8.

    iCaRL (Rebuffi et al. 2017) and LUCIR (Hou et al. 2019) leave out the ReLU before the mean, so
    that features may be negative: `last_relu=false`. LUCIR's released code also has projections as
    shortcuts (option B) and draws N(0, 2 / fan_out). PODNet's (Douillard et al. 2020) counts the
    last block as a fourth stage. Mammoth's network of this name, a port of iCaRL's, has the first
    ReLU of each block before batch norm, and none before the mean.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        width: int = 16,
        last_relu: bool = True,
    ) -> None:
        positive("backbone.width", width)
        widths = [width << stage for stage in range(3)]
        super().__init__(input_shape, n_classes, widths, 5, ZeroPadding, last_relu)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert isinstance(self.head, nn.Linear)
        nn.init.zeros_(self.head.bias)
