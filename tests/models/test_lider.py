"""LiDER: the constants against singular values, the budgets, and that weights 0 add nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.addon import wrapped
from perdure.models.er import ER
from perdure.models.er_ace import ERACE
from perdure.models.lider import Lider
from perdure.models.lipschitz import block_constant

Digits = Callable[..., Batch]

SHAPE = (1, 28, 28)
OPTIONS = {
    "base": {},
    "input_shape": SHAPE,
    "lipschitz": 0.1,
    "lipschitz_target": 0.3,
    "iterations": 10,
}


def small() -> SmallConv:
    torch.manual_seed(0)
    return SmallConv(SHAPE, 10, width=3)


@pytest.fixture
def lider(digits: Digits) -> Any:
    method = wrapped(Lider, ERACE)(small(), **OPTIONS)
    method.task = type("Now", (), {"index": 0})()
    method.before_task(lambda n: [digits(0, 40), digits(40, 50)])
    return method


@pytest.mark.parametrize("iterations", [None, 400])
def test_of_a_linear_block_it_is_the_largest_singular_value(iterations: int | None) -> None:
    """F of one-hot positions, G = W F with columns of length 1: A = Wᵀ / C."""
    torch.manual_seed(0)
    w = torch.randn(4, 4, dtype=torch.double)
    w /= w.norm(dim=0)
    f = torch.eye(4, dtype=torch.double).repeat(1, 3).view(1, 4, 3, 4)
    g = torch.einsum("dc,bchw->bdhw", w, f)
    found = block_constant(f, g, iterations)
    wanted = torch.linalg.svdvals(w)[0] / 4
    torch.testing.assert_close(found, wanted[None], rtol=1e-5, atol=1e-6)


def by_hand(front: Tensor, back: Tensor) -> float:
    """L_l of one example, position by position, in numpy."""
    f, g = front.double().numpy(), back.double().numpy()
    (c, height, width), (d, rows, columns) = f.shape, g.shape
    a = np.zeros((c, c))
    for i in range(rows):
        for j in range(columns):
            mean, k = np.zeros(c), 0
            for y in range(height * i // rows, -(-height * (i + 1) // rows)):
                for x in range(width * j // columns, -(-width * (j + 1) // columns)):
                    v = f[:, y, x]
                    mean, k = mean + v / max(np.linalg.norm(v), 1e-30), k + 1
            out = np.array([g[d * m // c : -(-d * (m + 1) // c), i, j].mean() for m in range(c)])
            a += np.outer(mean / k, out / max(np.linalg.norm(out), 1e-30))
    return float(np.linalg.svd(a / (rows * columns), compute_uv=False)[0])


def test_pooling_and_lengths_by_hand() -> None:
    torch.manual_seed(0)
    for sizes in [((3, 6, 4), (6, 6, 4)), ((3, 8, 8), (8, 4, 4)), ((4, 7, 6), (4, 3, 3))]:
        front, back = (torch.randn(2, *size) for size in sizes)
        wanted = [by_hand(*pair) for pair in zip(front, back, strict=True)]
        for iterations in (None, 300):
            found = block_constant(front, back, iterations)
            assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_both_ways_have_the_gradient_of_the_singular_value() -> None:
    torch.manual_seed(0)
    front = torch.randn(2, 3, 4, 4, dtype=torch.double)
    back = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: block_constant(front, g, None), back, atol=1e-6)
    exact, fast = (
        torch.autograd.grad(block_constant(front, back, n).sum(), back)[0] for n in (None, 400)
    )
    torch.testing.assert_close(fast, exact, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("iterations", [None, 10])
def test_an_empty_map_has_a_gradient(iterations: int | None) -> None:
    front = torch.zeros(1, 3, 4, 4)
    back = torch.zeros(1, 3, 4, 4, requires_grad=True)
    block_constant(front, back, iterations).sum().backward()
    assert torch.isfinite(back.grad).all()


def test_the_loss_is_the_sum_of_both_means(lider: Any, digits: Digits) -> None:
    lider.iterations = None
    past = digits(0, 6)
    x = past.x
    one, two = lider.backbone.feature_maps(x)
    pairs = [(x, one), (one, two)]
    found = np.array([[by_hand(f[i].detach(), g[i].detach()) for f, g in pairs] for i in range(6)])
    budgets = np.array([0.02, -0.5])
    lider.budgets.data = torch.tensor(budgets).float()
    away = np.abs(found - np.maximum(budgets, 0)).mean()
    assert float(lider.extra(past)) == pytest.approx(0.1 * found.mean() + 0.3 * away, rel=1e-4)


def test_budgets_start_at_the_mean_over_the_first_task(lider: Any, digits: Digits) -> None:
    lider.iterations = None
    every = lider.constants(digits(0, 50).x).detach()
    torch.testing.assert_close(lider.budgets.detach(), every.mean(0).float(), rtol=0.02, atol=0)
    before = lider.budgets.detach().clone()
    lider.before_task(lambda n: [digits(0, 10, 5, 6)])
    assert torch.equal(lider.budgets, before)


def test_budgets_move(make_trainer: Any) -> None:
    """A peer's stay as they start: its optimizer never has them."""
    starts = []

    class Watched(Lider):
        def before_task(self, data: Any) -> None:
            super().before_task(data)
            starts.append(self.budgets.detach().clone())

    trainer = make_trainer(lambda network: wrapped(Watched, ER)(small(), **OPTIONS), iterations=10)
    trainer.fit()
    assert (trainer.method.budgets != starts[0]).all()


def test_weights_0_are_the_base_method_to_the_bit(make_trainer: Any) -> None:
    ends = []
    zero = {**OPTIONS, "lipschitz": 0.0, "lipschitz_target": 0.0}
    kinds = [lambda network: ERACE(small())]
    kinds += [lambda network, o=o: wrapped(Lider, ERACE)(small(), **o) for o in (zero, OPTIONS)]
    for kind in kinds:
        trainer = make_trainer(kind, iterations=6)
        trainer.fit()
        ends.append(trainer.method.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["backbone.conv3.weight"], ends[2]["backbone.conv3.weight"])


def test_the_contract() -> None:
    check_method(
        wrapped(Lider, ER), OPTIONS, backbone=lambda b: SmallConv(b.shape, b.n_classes, width=1)
    )


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [("lipschitz", -0.1, 0), ("lipschitz_target", float("nan"), 0), ("iterations", 0, 1)],
)
def test_values_out_of_range_are_refused(key: str, value: float, least: int) -> None:
    with pytest.raises(UserError, match=rf"^addon\.{key}={value}: .* must be {least} or more"):
        wrapped(Lider, ER)(small(), **{**OPTIONS, key: value})


def test_maps_without_positions_are_refused() -> None:
    with pytest.raises(UserError, match=r"^addon=lider: MLP has maps without positions"):
        wrapped(Lider, ER)(MLP(SHAPE, 10), **OPTIONS)
