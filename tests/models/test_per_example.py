"""The sum of squared gradients against one backward pass an example."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.models.per_example import (
    gradients_of_each,
    negative_log_likelihood,
    squared_gradients,
    summed_gradients,
)


def one_by_one(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    sums = {name: torch.zeros_like(p) for name, p in network.named_parameters() if p.requires_grad}
    for i in range(len(x)):
        network.zero_grad()
        F.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                sums[name] += p.grad.square()
    network.zero_grad()
    return sums


class Shared(nn.Module):
    """A linear layer over positions, which the product of matrices cannot serve."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(4, 3)
        self.head = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.each(x.view(len(x), 2, 4)).flatten(1))
        return out


def frozen() -> nn.Module:
    network = MLP((1, 4, 4), 10, (8,))
    network.head.requires_grad_(False)
    return network


def frozen_bias() -> nn.Module:
    network = MLP((1, 4, 4), 10, (8,))
    network.head.bias.requires_grad_(False)  # type: ignore[union-attr]
    return network


NETWORKS = [
    pytest.param(lambda: MLP((1, 28, 28), 10), (1, 28, 28), id="mlp"),
    pytest.param(lambda: ReducedResNet18((3, 8, 8), 10), (3, 8, 8), id="resnet"),
    pytest.param(Shared, (8,), id="shared-layer"),
    pytest.param(frozen, (1, 4, 4), id="frozen-head"),
]
WITHOUT_BIAS = pytest.param(frozen_bias, (1, 4, 4), id="frozen-bias")


@pytest.mark.parametrize(("make", "shape"), [*NETWORKS, WITHOUT_BIAS])
def test_products_of_gradients_are_those_of_single_examples(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    parameters = [p for p in network.parameters() if p.requires_grad]
    data = [(torch.rand(n, *shape), torch.randint(0, 10, (n,))) for n in (5, 3)]
    gradients = []
    for x, y in data:
        losses = F.cross_entropy(network(x), y, reduction="none")
        each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
        gradients.append(torch.stack([torch.cat([g.flatten() for g in one]) for one in each]))
    a, b = (gradients_of_each(network, x, y, negative_log_likelihood) for x, y in data)
    torch.testing.assert_close(a.products(b), gradients[0] @ gradients[1].T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.squares(), gradients[0].square().sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_it_is_the_sum_over_single_examples(make, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    x, y = torch.rand(7, *shape), torch.randint(0, 10, (7,))
    expected = one_by_one(network, x, y)
    found = squared_gradients(network, x, y)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
        assert not found[name].requires_grad
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("of", [torch.square, torch.abs], ids=["squares", "absolute"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: MLP((1, 28, 28), 10), (1, 28, 28), id="mlp"),
        pytest.param(Shared, (8,), id="shared-layer"),
    ],
)
def test_another_scalar_and_another_function(make, shape: tuple[int, ...], of) -> None:
    """Of y_n ‖z_n‖², which needs no label's probability."""
    torch.manual_seed(0)
    network = make().eval()
    x, y = torch.randn(7, *shape), torch.arange(7)
    found = summed_gradients(network, x, y, lambda z, y: y * z.square().sum(1), of)
    names, parameters = zip(*network.named_parameters(), strict=True)
    expected = [torch.zeros_like(p) for p in parameters]
    for n in range(7):
        parts = torch.autograd.grad(n * network(x[n : n + 1]).square().sum(), parameters)
        expected = [total + of(part) for total, part in zip(expected, parts, strict=True)]
    assert found.keys() == set(names)
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
