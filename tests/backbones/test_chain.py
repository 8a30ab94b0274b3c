"""Chains of layers: which networks are one, gates on single units, protected weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.chain import Gates, layers_of, protect, require_chain
from perdure.backbones.mlp import MLP
from perdure.backbones.preact_resnet import PreActResNet18
from perdure.backbones.resnet import ReducedResNet18
from perdure.backbones.small_conv import SmallConv
from perdure.errors import UserError


def conv() -> SmallConv:
    torch.manual_seed(0)
    return SmallConv((1, 16, 16), 10, width=2)


def test_the_layers_are_those_before_the_head() -> None:
    network = conv()
    expected = [network.conv1, network.conv2, network.conv3, network.conv4, network.dense]
    assert layers_of(network) == expected
    mlp = MLP((1, 4, 4), 10, (5, 3))
    assert layers_of(mlp) == list(mlp.layers)
    for each in (network, mlp):
        shape = (3, 1, 16, 16) if each is network else (3, 1, 4, 4)
        require_chain(each, layers_of(each), torch.rand(shape))


def test_a_gate_is_one_after_the_activation_and_the_pooling() -> None:
    network, x = conv(), torch.rand(3, 1, 16, 16)
    layers = layers_of(network)
    gates, a = Gates(layers), [torch.rand(len(layer.weight)) for layer in layers]
    plain = network(x)
    gates.values = a
    gated = network.features(x)
    gates.values = ()
    assert torch.equal(network(x), plain)
    x = torch.relu(network.conv1(x)) * a[0].view(-1, 1, 1)
    x = F.max_pool2d(torch.relu(network.conv2(x)), 2) * a[1].view(-1, 1, 1)
    x = torch.relu(network.conv3(x)) * a[2].view(-1, 1, 1)
    x = F.max_pool2d(torch.relu(network.conv4(x)), 2) * a[3].view(-1, 1, 1)
    expected = torch.relu(network.dense(x.flatten(1))) * a[4]
    torch.testing.assert_close(gated, expected)


def test_a_weight_is_held_as_much_as_its_input_and_its_unit_are_used() -> None:
    """Of a feature map of 2x1 pixels before a linear layer too, weight by weight."""
    network = SmallConv((1, 14, 10), 10, width=2)
    layers = layers_of(network)
    used = [torch.rand(len(layer.weight)) for layer in layers]
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    protect(layers, used)
    pixels = network.dense.in_features // 4
    assert pixels == 2
    for number, layer in enumerate(layers):
        assert layer.weight.grad is not None
        assert layer.bias is not None
        for i, row in enumerate(layer.weight.grad):
            for j, value in enumerate(row):
                of_input = torch.ones(())
                if number:
                    of_input = used[number - 1][j // pixels if layer is network.dense else j]
                held = torch.minimum(used[number][i], of_input)
                assert torch.equal(value, (1 - held).expand_as(value))
        torch.testing.assert_close(layer.bias.grad, 1 - used[number])
    assert torch.equal(network.head.weight.grad, torch.ones(10, 32))


class Shared(MLP):
    """Runs one layer twice."""

    def stages(self, x: Tensor) -> Any:
        x = torch.relu(self.layers[0](x.flatten(1)))
        yield self.layers[0](x)


class Widened(MLP):
    """A layer that cannot follow the one before it."""

    def __init__(self) -> None:
        super().__init__((1, 3, 3), 10, (9,))
        self.layers.append(nn.Linear(10, 4))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: ReducedResNet18((1, 16, 16), 10, width=2), r"has bn1\.weight"),
        (lambda: PreActResNet18((1, 16, 16), 10, width=2), r"has units\.0\.bn1\.weight"),
        (lambda: MLP((1, 3, 3), 10, ()), "has no hidden layer"),
        (
            lambda: Shared((1, 3, 3), 10, (9,)),
            "has layers that run in another order than they are defined in",
        ),
        (Widened, "has a layer of 10 inputs after one of 9 units"),
    ],
    ids=["batch norm", "pre-activation", "no layer", "twice", "widths"],
)
def test_what_is_no_chain_is_refused(network: Any, why: str) -> None:
    made: Backbone = network()
    with pytest.raises(UserError, match=rf"backbone\._target_=.*{why}; .*backbone=small-conv"):
        require_chain(made, layers_of(made), torch.rand(4, 1, 3, 3))
