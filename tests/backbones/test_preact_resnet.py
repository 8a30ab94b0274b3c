"""PreAct ResNet-18 against a plain computation from the same weights."""

from __future__ import annotations

import torch
from others import OtherResNet
from plain_layers import normed, shuffled
from torch import Tensor
from torch.nn import functional as F

from perdure.backbones.preact_resnet import PreActResNet18
from perdure.checkpoint.interop.weights import fill


def plain(x: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """The four maps: x + F(relu(BN(x))), and in units 0, 2, 4, 6 a shortcut from relu(BN(x))."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    maps = []
    for i in range(8):
        stride = 2 if i in (2, 4, 6) else 1
        name = f"units.{i}"
        a = normed(x, state, f"{name}.bn1").relu()
        y = F.conv2d(a, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(
            normed(y, state, f"{name}.bn2").relu(), state[f"{name}.conv2.weight"], padding=1
        )
        if stride == 2:
            x = F.conv2d(a, state[f"{name}.shortcut.weight"], stride=2)
        elif i == 0:
            x = a
        x = x + y
        if i % 2:
            maps.append(x)
    return maps


def test_preact_resnet18_is_the_published_one() -> None:
    network = PreActResNet18((3, 13, 9), 5, width=3).double().eval()
    state, x = shuffled(network), torch.randn(3, 3, 13, 9, dtype=torch.float64)
    maps = plain(x, state)
    torch.testing.assert_close(network.feature_maps(x), tuple(maps))
    features = normed(maps[-1], state, "bn").relu().mean((2, 3))
    torch.testing.assert_close(network.features(x), features)


def test_the_blocks_of_another_resnet18_do_not_pass_for_its_units() -> None:
    network = PreActResNet18((3, 8, 8), 10, width=4)
    report = fill(network, OtherResNet().state_dict(), allow_missing=True)
    assert set(report.filled) == {"conv1.weight", "head.weight", "head.bias"}
