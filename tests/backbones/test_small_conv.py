"""The small convolutional net against a plain computation; its dropout and smallest image."""

from __future__ import annotations

import math

import pytest
import torch
from plain_layers import shuffled
from torch import nn
from torch.nn import functional as F

from perdure.backbones.small_conv import SmallConv
from perdure.errors import UserError


def test_small_conv_is_the_published_one() -> None:
    network = SmallConv((3, 14, 11), 5, width=3).double()
    state, x = shuffled(network), torch.randn(4, 3, 14, 11, dtype=torch.float64)
    maps = []
    h = x
    for i, padding in ((1, 1), (2, 0), (3, 1), (4, 0)):
        h = F.conv2d(h, state[f"conv{i}.weight"], state[f"conv{i}.bias"], padding=padding)
        if padding == 0:
            maps.append(h)
        h = h.relu()
        if padding == 0:
            rows, columns = h.shape[2] // 2, h.shape[3] // 2
            h = h[:, :, : 2 * rows, : 2 * columns].reshape(4, -1, rows, 2, columns, 2)
            h = h.amax((3, 5))
    torch.testing.assert_close(network.feature_maps(x), tuple(maps))
    features = (h.reshape(4, -1) @ state["dense.weight"].T + state["dense.bias"]).relu()
    torch.testing.assert_close(network.features(x), features)


def test_it_starts_as_glorot_and_bengio_say() -> None:
    torch.manual_seed(0)
    network = SmallConv((3, 32, 32), 10)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        area = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (area * sum(layer.weight.shape[:2])))
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_dropout_has_the_paper_s_rates_and_only_in_training() -> None:
    network = SmallConv((1, 28, 28), 10, width=4, dropout=True)
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.25, 0.25, 0.5]
    x = torch.rand(2, 1, 28, 28)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_the_smallest_image() -> None:
    assert SmallConv((1, 10, 10), 2, width=1)(torch.rand(3, 1, 10, 10)).shape == (3, 2)
    with pytest.raises(UserError, match=r"at least 10x10 .* not \(1, 10, 9\)"):
        SmallConv((1, 10, 9), 2, width=1)
    with pytest.raises(UserError, match=r"^backbone\.width .* not 0"):
        SmallConv((1, 10, 10), 2, width=0)
