"""Riemannian walk: the moving Fisher information, the path scores, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from quadratic_penalties import NO_MEMORY, growing, require_sgd
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.rwalk import RWalk
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {"strength": 0.5, "alpha": 0.9, "window": 4}
EPS = 1e-8


def weights_of(method: RWalk) -> Tensor:
    return method.weights().detach().clone()


def train(method: RWalk, digits: Digits, steps: int, momentum: float) -> tuple[Tensor, Tensor]:
    """Two epochs of `steps` through the trainer's own step; F and s_task by hand, in float64."""
    task = method.task.index
    settings = Settings(batch_size=10)
    step = Step(method, Scale(), None, Streams(0), settings, torch.device("cpu"))
    optimizer = SGD(method.trainable(), lr=0.1, momentum=momentum)
    fisher, score = method.fisher.double(), torch.zeros_like(method.score).double()
    path, start = torch.zeros_like(score), weights_of(method)
    method.before_task(lambda n: [])
    for k in range(2 * steps):
        method.task.epoch, method.task.step = divmod(k, steps)
        method.task.steps_per_epoch = steps
        batch = digits(10 * k, 10 * k + 10)
        loss = F.cross_entropy(method(batch.x), batch.y)
        g = torch.cat([p.flatten() for p in torch.autograd.grad(loss, method.trainable())])
        before = weights_of(method)
        step(batch.raw, batch.y, batch.y.numpy(), optimizer, Position(task, 0, k, k))
        fisher = 0.9 * g.double().square() + 0.1 * fisher
        path = path - g.double() * (weights_of(method) - before).double()
        if (k + 1) % 4 == 0 or k + 1 == 2 * steps:
            moved = (weights_of(method) - start).double()
            score = score + path.clamp(min=0) / (fisher * moved**2 / 2 + EPS)
            path, start = torch.zeros_like(score), weights_of(method)
    return fisher, score


def test_two_tasks_equal_a_loop_by_hand(make: Callable[..., Any], digits: Digits) -> None:
    """With momentum, a window across epochs, a shorter last one, and the penalty in the second."""
    method = make(RWalk, task=0, **OPTIONS)
    assert method.penalty() is None
    fisher, score = train(method, digits, 5, 0.9)
    torch.testing.assert_close(method.fisher.double(), fisher, rtol=1e-3, atol=1e-10)
    method.after_task(None, NO_MEMORY)
    expected = fisher / fisher.max() + score / score.max()
    torch.testing.assert_close(method.importance.double(), expected, rtol=2e-2, atol=1e-4)
    assert expected.max() > 1
    method.task = Task(1, range(2, 4), range(4))
    assert method.penalty() == 0, "at the anchor itself"
    anchor = weights_of(method)
    fisher, second = train(method, digits, 3, 0.0)
    theta = weights_of(method).double()
    penalty = method.penalty().double()
    by_hand = 0.5 * (expected * (theta - anchor.double()).square()).sum()
    torch.testing.assert_close(penalty, by_hand, rtol=1e-2, atol=0)
    method.after_task(None, NO_MEMORY)
    both = (score + second) / 2
    expected = fisher / fisher.max() + both / both.max()
    torch.testing.assert_close(method.importance.double(), expected, rtol=2e-2, atol=1e-4)
    assert torch.equal(method.anchor, weights_of(method))
    assert not method.score.any()
    assert not method.path.any()


def test_what_raised_the_loss_is_no_merit_and_takes_none_from_later_windows(
    make: Callable[..., Any],
) -> None:
    """The score is cut off at zero a window; cut off at the task's end alone it would be less."""
    method = make(RWalk, **OPTIONS)
    method.fisher.fill_(2.0)
    method.start.copy_(method.weights().detach() - 1.0)
    method.path.fill_(-3.0)
    method.task.step, method.task.steps_per_epoch = 3, 100
    method.after_batch()
    assert not method.score.any()
    method.start.sub_(1.0)
    method.path.fill_(3.0)
    method.task.step = 6
    method.after_batch()
    assert not method.score.any(), "within a window"
    method.task.step = 7
    method.after_batch()
    torch.testing.assert_close(method.score, torch.full_like(method.score, 3.0))


def test_without_strength_it_is_sgd(make_trainer: MakeTrainer) -> None:
    require_sgd(
        make_trainer,
        lambda n: RWalk(n, 0.0, alpha=0.9, window=3),
        lambda n: RWalk(n, 0.1, alpha=0.9, window=3),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("strength", -1.0), ("alpha", 0.0), ("alpha", 1.1), ("window", 0), ("window", 2.5)],
)
def test_values_that_make_no_sense_are_refused(
    make: Callable[..., Any], key: str, value: Any
) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}=.*must be"):
        make(RWalk, **{**OPTIONS, key: value})


def test_the_contract_of_a_method() -> None:
    check_method(RWalk, OPTIONS)


def test_a_growing_head() -> None:
    check_method(RWalk, OPTIONS, backbone=growing, settings={"loss_scope": "seen"})
