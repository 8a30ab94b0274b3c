"""GEM: the projection, which gradients it sees, and what is refused at start-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.ring import TaskRing
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.models.agem import AGEM
from perdure.models.gem import GEM
from perdure.models.gradients import flat_gradient, unflatten
from perdure.training.checks import check
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Make = Callable[..., Any]


def projected(method: Any, g: Tensor, references: Tensor | None) -> Tensor:
    for p, part in zip(method.trainable(), unflatten(g, method.trainable()), strict=True):
        p.grad = part.clone()
    method.after_backward(references)
    return flat_gradient(method.trainable())


def gradients(method: Any, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """g and k references of which at least one conflicts with it."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(p.numel() for p in method.trainable())
    g, references = torch.randn(n, generator=generator), torch.randn(k, n, generator=generator)
    references[0] -= g
    return g, references


@pytest.mark.parametrize("k", [1, 4, 12])
def test_no_reference_is_left_in_conflict(make: Make, k: int) -> None:
    """⟨g̃, g_k⟩ ≥ 0 for every k, by the smallest change that reaches it."""
    method = make(GEM, margin=0.0, ridge=0.0)
    g, references = gradients(method, k)
    change = projected(method, g, references) - g
    agreement = references @ (g + change) / references.norm(dim=1) / g.norm()
    assert agreement.min() >= -1e-5
    # The change is a sum of references that are met exactly, each with a weight of 0 or more.
    v = torch.linalg.lstsq(references.T.double(), change[:, None].double()).solution.squeeze(1)
    torch.testing.assert_close(references.T.double() @ v, change.double(), rtol=1e-4, atol=1e-4)
    assert v.min() >= -1e-5
    assert (agreement[v > 1e-4].abs() < 1e-5).all()


def test_one_task_is_the_projection_of_a_gem(make: Make) -> None:
    gem, agem = make(GEM, margin=0.0, ridge=0.0), make(AGEM)
    g, references = gradients(gem, 1)
    torch.testing.assert_close(
        projected(gem, g, references), projected(agem, g, references), rtol=1e-4, atol=1e-5
    )


def test_margin_and_ridge_as_in_the_authors_code(make: Make) -> None:
    """One task: v = max(margin, −g·g₁ / (g₁·g₁ + ridge))."""
    for margin, ridge in ((0.5, 1e-3), (3.0, 1e-3), (0.1, 1e4)):
        method = make(GEM, margin=margin, ridge=ridge)
        g, references = gradients(method, 1)
        dot, square = torch.dot(g, references[0]), references[0].square().sum()
        v = (-dot / (square + ridge)).clamp(min=margin)
        expected = g + v * references[0]
        torch.testing.assert_close(projected(method, g, references), expected, rtol=1e-4, atol=1e-5)


def test_an_agreeing_gradient_is_left_alone_to_the_bit(make: Make) -> None:
    method = make(GEM, margin=0.5, ridge=1e-3)
    g, references = gradients(method, 3)
    references = references * (references @ g).sign()[:, None]
    assert torch.equal(projected(method, g, references), g)
    assert torch.equal(projected(method, g, torch.zeros_like(references)), g)
    assert torch.equal(projected(method, g, None), g)


def test_what_is_not_finite_is_left_to_the_trainer(make: Make) -> None:
    method = make(GEM, margin=0.5, ridge=1e-3)
    g, references = gradients(method, 2)
    references[1] = float("nan")
    assert torch.equal(projected(method, g, references), g)


def test_each_earlier_task_has_one_reference_of_its_whole_memory(tiny: Arrays) -> None:
    """The gradients that the projection gets are those of the memory's examples, task by task."""
    benchmark, buffer = ClassIncremental(tiny, 3), Buffer(TaskRing(30, 10, 3))
    compared = []

    class Watched(GEM):
        def after_backward(self, references: Tensor | None) -> None:
            index = self.task.index
            assert (0 if references is None else len(references)) == index
            held, stored = buffer.on_host, buffer.contents()
            for task in range(index):
                rows = torch.from_numpy(held.tasks == task)
                assert rows.sum() == 10
                x, y = stored["raw"][rows] / 255, stored["y"][rows]
                loss = torch.nn.functional.cross_entropy(self.backbone(x), y)
                parts = torch.autograd.grad(loss, self.trainable())
                expected = torch.cat([part.flatten() for part in parts])
                assert references is not None
                torch.testing.assert_close(references[task], expected, rtol=1e-4, atol=1e-6)
                compared.append((index, task))
            super().after_backward(references)

    torch.manual_seed(0)
    method = Watched(MLP((1, 28, 28), 10, (12,)), margin=0.5, ridge=1e-3)
    Trainer(method, benchmark, Settings(batch_size=40), buffer=buffer).fit()
    assert set(compared) == {(1, 0), (2, 0), (2, 1)}


def test_the_contract() -> None:
    check_method(GEM, {"margin": 0.5, "ridge": 1e-3}, buffer=lambda: TaskRing(39, 10, 3))


@pytest.mark.parametrize(("shards", "stop_after"), [(1, None), (4, None), (4, 2)])
def test_more_references_than_memory_are_refused_before_training(
    tiny: Arrays, shards: int, stop_after: int | None
) -> None:
    with torch.device("meta"):
        method = GEM(MLP((1, 28, 28), 10, (8000, 8000)), margin=0.5, ridge=1e-3)
    settings = Settings(batch_size=40, shards=shards, stop_after=stop_after)
    arguments = (method, ClassIncremental(tiny, 5), settings, Buffer(TaskRing(30, 10, 5)))
    needed = 4 * sum(p.numel() for p in method.trainable()) * 4 * shards
    if stop_after is not None or needed <= 4 << 30:
        check(*arguments)
        return
    with pytest.raises(UserError, match=r"^dataset\.n_tasks=5: GEM computes a gradient of [\d,]+ "):
        check(*arguments)


@pytest.mark.parametrize("key", ["margin", "ridge"])
def test_a_bound_below_zero_is_refused(make: Make, key: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}=-0\.5: .*; must be 0 or more"):
        make(GEM, **{"margin": 0.5, "ridge": 1e-3, key: -0.5})
