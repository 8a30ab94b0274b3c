"""Synaptic intelligence: the path integral, the importance, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.memory import Memory
from perdure.models.si import SI
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

Digits = Callable[..., Batch]

NO_MEMORY = Memory(None, Scale())


def weights_of(method: SI) -> Tensor:
    return parameters_to_vector(method.trainable()).detach().clone()


@pytest.mark.parametrize("clip_norm", [None, 0.05], ids=["free", "clipped"])
@pytest.mark.parametrize("task", [0, 1], ids=["first task", "second task"])
def test_the_path_integral_equals_a_loop_by_hand(
    make: Callable[..., Any], digits: Digits, task: int, clip_norm: float | None
) -> None:
    """ω = Σ −g · Δθ with g the gradient of the loss alone and Δθ the step really taken: with
    momentum, with the penalty's pull, and with clipping."""
    method = make(SI, task=task, c=5.0, xi=0.1)
    method.importance.fill_(1.0)
    method.anchor.add_(0.1)
    settings = Settings(batch_size=10, clip_norm=clip_norm)
    step = Step(method, Scale(), None, Streams(0), settings, torch.device("cpu"))
    optimizer, omega = SGD(method.trainable(), lr=0.1, momentum=0.9), torch.zeros(())
    for k in range(12):
        batch = digits(10 * k, 10 * k + 10)
        loss = F.cross_entropy(method(batch.x), batch.y)
        parts = torch.autograd.grad(loss, method.trainable())
        g, before = torch.cat([p.flatten() for p in parts]), weights_of(method)
        step(batch.raw, batch.y, batch.y.numpy(), optimizer, Position(task, 0, k, k))
        omega = omega - g * (weights_of(method) - before)
    assert omega.abs().max() > 1e-4
    torch.testing.assert_close(method.omega, omega, rtol=1e-4, atol=1e-8)


def test_importance_grows_when_a_task_ends(make: Callable[..., Any]) -> None:
    """Eq. 5: Ω ← Ω + ω / ((θ − θ̃)² + ξ); then θ̃ ← θ and ω ← 0."""
    method = make(SI, c=1.0, xi=0.1)
    generator = torch.Generator().manual_seed(0)
    omega, before, start = torch.randn(3, *method.omega.shape, generator=generator)
    method.omega.copy_(omega)
    method.importance.copy_(before)
    method.anchor.copy_(start)
    method.after_task(lambda n: [], NO_MEMORY)
    weights = weights_of(method)
    torch.testing.assert_close(method.importance, before + omega / ((weights - start) ** 2 + 0.1))
    assert torch.equal(method.anchor, weights)
    assert not method.omega.any()


def test_penalty_is_c_times_the_weighted_distance(make: Callable[..., Any]) -> None:
    """Eq. 4, and its gradient 2 c Ω (θ − θ̃)."""
    method = make(SI, c=0.7, xi=0.1)
    generator = torch.Generator().manual_seed(0)
    method.importance.copy_(torch.rand(method.importance.shape, generator=generator))
    method.anchor.copy_(torch.randn(method.anchor.shape, generator=generator))
    weights = weights_of(method)
    penalty = method.penalty()
    away = weights - method.anchor
    expected = 0.7 * (method.importance.double() * away.double().square()).sum()
    torch.testing.assert_close(penalty.double(), expected, rtol=1e-5, atol=0)
    penalty.backward()
    gradient = torch.cat([p.grad.flatten() for p in method.trainable()])
    torch.testing.assert_close(gradient, 1.4 * method.importance * away)


def test_there_is_no_penalty_in_the_first_task(make: Callable[..., Any], digits: Digits) -> None:
    method, batch = make(SI, task=0, c=7.0, xi=1.0), digits(0, 10)
    method.importance.fill_(1.0)
    method.anchor.add_(1.0)
    assert method.penalty() is None
    assert torch.equal(method.loss(batch), F.cross_entropy(method(batch.x), batch.y))
    method.task = Task(1, range(2, 4), range(4))
    assert method.penalty() > 0


class Bowl(Backbone):
    """Weights alone; the loss ½ θᵀ A θ has nothing to do with any example."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.head = None  # type: ignore[assignment]
        self.theta = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))
        self.curvature = torch.tensor([1.0, 3.0, 0.2])

    def height(self) -> Tensor:
        return (self.curvature * self.theta.square()).sum() / 2


@pytest.mark.parametrize(("lr", "within"), [(0.02, 0.05), (0.002, 0.005)], ids=["coarse", "fine"])
def test_on_a_bowl_the_importances_add_up_to_the_fall_of_the_loss(lr: float, within: float) -> None:
    """Sec. 3: the path integral is the loss's change, exactly so for infinitely small steps; and
    each weight's share is its own, since A is diagonal."""
    bowl = Bowl()
    method = SI(bowl, c=1.0, xi=0.1)
    method.task = Task(0, range(1), range(1))
    optimizer, start = SGD(method.trainable(), lr), bowl.theta.detach().clone()
    for _ in range(round(1 / lr)):
        optimizer.zero_grad()
        bowl.height().backward()
        method.after_backward(None)
        optimizer.step()
        method.after_step({}, {})
    fall = bowl.curvature * (start.square() - bowl.theta.detach().square()) / 2
    torch.testing.assert_close(method.omega, fall, rtol=within, atol=0)
    torch.testing.assert_close(method.omega.sum(), fall.sum(), rtol=within, atol=0)


@pytest.mark.parametrize(
    "options", [{"c": -1.0, "xi": 1.0}, {"c": 1.0, "xi": 0.0}], ids=["c", "xi"]
)
def test_values_that_make_no_sense_are_refused(
    make: Callable[..., Any], options: dict[str, float]
) -> None:
    with pytest.raises(UserError, match=r"model\.c=.*model\.xi=.*xi above 0"):
        make(SI, **options)
