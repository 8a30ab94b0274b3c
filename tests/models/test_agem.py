"""A-GEM: the projection, and a memory of earlier tasks only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.transforms import Scale
from perdure.models.agem import AGEM
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).double()


def rows(reference: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in reference])[None]


def project(method: AGEM, g: list[Tensor], reference: list[Tensor] | None) -> Tensor:
    for p, part in zip(method.trainable(), g, strict=True):
        p.grad = part.clone()
    method.after_backward(None if reference is None else rows(reference))
    return flat([p.grad for p in method.trainable() if p.grad is not None])


def random_gradient(method: AGEM, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in method.trainable()]


@pytest.mark.parametrize("mix", [-1.0, -0.5, -1e-3], ids=str)
def test_a_conflicting_gradient_becomes_orthogonal(make: Callable[..., Any], mix: float) -> None:
    """Eq. 11: g̃ = g − (gᵀg_ref / g_refᵀg_ref) g_ref."""
    method = make(AGEM)
    ref, noise = random_gradient(method, 0), random_gradient(method, 1)
    along = torch.dot(flat(noise), flat(ref)) / torch.dot(flat(ref), flat(ref))
    g = [n + (mix - along.float()) * r for n, r in zip(noise, ref, strict=True)]
    assert torch.dot(flat(g), flat(ref)) < 0
    projected = project(method, g, ref)
    expected = flat(g) - torch.dot(flat(g), flat(ref)) / flat(ref).square().sum() * flat(ref)
    torch.testing.assert_close(projected, expected, rtol=1e-5, atol=1e-5)
    cosine = torch.dot(projected, flat(ref)) / (projected.norm() * flat(ref).norm())
    assert cosine >= -1e-6


def test_an_agreeing_gradient_is_left_alone_to_the_bit(make: Callable[..., Any]) -> None:
    method = make(AGEM)
    ref = random_gradient(method, 0)
    g = [n + r for n, r in zip(random_gradient(method, 1), ref, strict=True)]
    assert torch.dot(flat(g), flat(ref)) > 0
    assert torch.equal(project(method, g, ref), flat(g))
    assert torch.equal(project(method, g, None), flat(g))


def test_a_vanishing_reference_does_no_harm(make: Callable[..., Any]) -> None:
    method = make(AGEM)
    g = random_gradient(method, 1)
    zero = [torch.zeros_like(part) for part in g]
    assert torch.equal(project(method, g, zero), flat(g))


def test_parameters_outside_the_loss_are_skipped(make: Callable[..., Any]) -> None:
    method = make(AGEM)
    ref = random_gradient(method, 0)
    for p, part in zip(method.trainable(), ref, strict=True):
        p.grad = -part
    method.backbone.head.bias.grad = None
    method.after_backward(rows(ref))
    assert method.backbone.head.bias.grad is None
    assert all(p.grad.abs().max() < 1e-5 for p in method.trainable() if p.grad is not None)


@pytest.mark.parametrize("conflict", [True, False], ids=["conflict", "agreement"])
def test_a_step_moves_along_the_projected_gradient(
    make: Callable[..., Any], digits: Digits, conflict: bool
) -> None:
    """The whole step by hand: the memory has other labels than the batch, or the same."""
    method, twin = make(AGEM), make(AGEM)
    for network in (method, twin):  # so that only 2 and 3 compete
        network.backbone.head.bias.data[[2, 3]] += 8
    batch = digits(0, 10, 2, 3)
    memory_y = 5 - batch.y if conflict else batch.y
    buffer, streams = Buffer(Reservoir(10, 10)), Streams(0)
    labels = memory_y.numpy()
    buffer.add({"raw": batch.raw, "y": memory_y}, labels, streams.numpy("remember"))
    step = Step(method, Scale(), buffer, streams, Settings(batch_size=10), torch.device("cpu"))
    loss = step(
        batch.raw, batch.y, batch.y.numpy(), SGD(method.trainable(), lr=0.5), Position(1, 0, 0, 0)
    )
    expected_loss = F.cross_entropy(twin(batch.x), batch.y)
    torch.testing.assert_close(loss, expected_loss.detach())
    g = flat(list(torch.autograd.grad(expected_loss, twin.trainable())))
    memory_loss = F.cross_entropy(twin(batch.x), memory_y)
    ref = flat(list(torch.autograd.grad(memory_loss, twin.trainable())))
    assert (torch.dot(g, ref) < 0) == conflict
    if conflict:
        g = g - torch.dot(g, ref) / torch.dot(ref, ref) * ref
    moved = flat([p.detach() for p in method.trainable()])
    expected = flat([p.detach() for p in twin.trainable()]) - 0.5 * g
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
    assert buffer.seen == 10, "a step offers nothing to the memory"


def test_the_memory_holds_earlier_tasks_only(tiny: Arrays) -> None:
    """It is offered each task once, when the task has ended."""
    benchmark, offered = ClassIncremental(tiny, 3), []

    class Watched(AGEM):
        def loss(self, batch: Batch, *replay: Batch) -> Tensor:
            held = buffer.contents().get("y", torch.zeros(0))
            offered.append((self.task.index, buffer.seen, set(held.tolist())))
            loss: Tensor = super().loss(batch, *replay)  # type: ignore[assignment]
            return loss

    torch.manual_seed(0)
    buffer = Buffer(Reservoir(40, 10))
    method = Watched(MLP((1, 28, 28), 10, (12,)))
    settings = Settings(batch_size=60)
    Trainer(method, benchmark, settings, buffer=buffer).fit()
    sizes = [len(benchmark.train(task)) for task in range(3)]
    for task, seen, classes in offered:
        assert seen == sum(sizes[:task])
        earlier = set(range(benchmark.classes(task).start))
        assert classes <= earlier
        assert len(classes) == len(earlier), "40 examples of at most 7 classes"
    assert {task for task, _, _ in offered} == {0, 1, 2}
    assert buffer.seen == sum(sizes)
