"""ResNet-32 and its shortcuts, against a plain computation from the same weights."""

from __future__ import annotations

import pytest
import torch
from plain_layers import normed, shuffled
from torch import Tensor
from torch.nn import functional as F

from perdure.backbones.resnet import ResNet32, ZeroPadding


def halved(x: Tensor, n_out: int) -> Tensor:
    """Option A: each second pixel, in the middle channels of zeros."""
    n = x.shape[1]
    out = x.new_zeros(len(x), n_out, (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
    out[:, (n_out - n) // 2 : (n_out + n) // 2] = x[:, :, ::2, ::2]
    return out


def plain(x: Tensor, state: dict[str, Tensor], width: int) -> list[Tensor]:
    """The three maps of ResNet-32, He et al. 2016, section 4.2."""
    x = normed(F.conv2d(x, state["conv1.weight"], padding=1), state, "bn1").relu()
    maps = []
    for i in range(15):
        stride = 2 if i in (5, 10) else 1
        y = F.conv2d(x, state[f"blocks.{i}.conv1.weight"], stride=stride, padding=1)
        y = normed(y, state, f"blocks.{i}.bn1").relu()
        y = F.conv2d(y, state[f"blocks.{i}.conv2.weight"], padding=1)
        y = normed(y, state, f"blocks.{i}.bn2")
        y = y + (halved(x, 2 * x.shape[1]) if stride == 2 else x)
        if i in (4, 9, 14):
            maps.append(y)
        x = y.relu()
    return maps


@pytest.mark.parametrize("last_relu", [True, False], ids=["relu", "without the last relu"])
def test_resnet32_is_the_published_one(last_relu: bool) -> None:
    network = ResNet32((3, 13, 9), 5, width=4, last_relu=last_relu).double().eval()
    state, x = shuffled(network), torch.randn(3, 3, 13, 9, dtype=torch.float64)
    maps = plain(x, state, 4)
    torch.testing.assert_close(network.feature_maps(x), tuple(maps))
    last = maps[-1].relu() if last_relu else maps[-1]
    torch.testing.assert_close(network.features(x), last.mean((2, 3)))
    assert (network.features(x) < 0).any() != last_relu


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 7, 5), (2, 1, 1)], ids=str)
def test_zero_padding_keeps_each_second_pixel(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape)
    shortcut = ZeroPadding(shape[0], 2 * shape[0], 2)
    assert torch.equal(shortcut(x), halved(x, 2 * shape[0]))
    assert not [*shortcut.parameters()]
