"""Memory aware synapses: the sensitivity one example at a time, and the penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import MakeTrainer, check_method
from quadratic_penalties import NO_MEMORY, data_of, gradients, growing, move, require_sgd
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.mas import MAS

Digits = Callable[..., Batch]


def omega_by_loop(network: Backbone, batch: Batch) -> Tensor:
    """The mean of |∂‖z‖² / ∂θ|."""
    found = list(gradients(network, batch, lambda z, y: (z * z).sum()))
    return torch.stack(found).abs().mean(0)


@pytest.mark.parametrize("network", ["mlp", "small-conv"])
def test_omega_is_the_mean_of_the_examples_absolute_gradients(
    make: Callable[..., Any], digits: Digits, network: str
) -> None:
    method = make(MAS, task=0, strength=1.0)
    if network == "small-conv":
        method = MAS(SmallConv((1, 28, 28), 10, width=2), 1.0)
        method.task = Task(0, range(2), range(2))
    batch = digits(0, 23)
    expected = omega_by_loop(method.backbone, batch)
    method.after_task(data_of(batch), NO_MEMORY)
    assert expected.max() > 0
    torch.testing.assert_close(method.omega, expected, rtol=1e-3, atol=1e-6)


def test_it_is_not_the_gradient_of_the_mean(make: Callable[..., Any], digits: Digits) -> None:
    """Some libraries take the absolute value of a batch's mean gradient, which cancels."""
    method, batch = make(MAS, task=0, strength=1.0), digits(0, 60)
    method.after_task(data_of(batch), NO_MEMORY)
    scalar = method(batch.x).square().sum(1).mean()
    mean = torch.cat([g.flatten() for g in torch.autograd.grad(scalar, method.trainable())])
    assert (method.omega >= mean.abs() - 1e-5).all()
    assert mean.abs().sum() < 0.9 * method.omega.sum()


def test_labels_do_not_matter(make: Callable[..., Any], digits: Digits) -> None:
    omegas = []
    for shift in (0, 1):
        method, batch = make(MAS, task=0, strength=1.0), digits(0, 20)
        batch.y = (batch.y + shift) % 10
        method.after_task(data_of(batch), NO_MEMORY)
        omegas.append(method.omega)
    assert torch.equal(*omegas)


def test_omega_is_the_mean_over_tasks_and_the_penalty_is_eq_4(
    make: Callable[..., Any], digits: Digits
) -> None:
    method, omegas = make(MAS, task=0, strength=0.7), []
    assert method.penalty() is None
    for k in range(3):
        method.task = Task(k, range(2 * k, 2 * k + 2), range(2 * k + 2))
        move(method, k)
        batch = digits(9 * k, 9 * k + 9)
        omegas.append(omega_by_loop(method.backbone, batch))
        method.after_task(data_of(batch), NO_MEMORY)
        anchor = method.weights().detach()
    move(method, 3)
    omega, theta = torch.stack(omegas).mean(0), method.weights().detach()
    penalty = method.penalty()
    expected = 0.7 * (omega * (theta - anchor).square()).sum()
    torch.testing.assert_close(penalty, expected, rtol=1e-3, atol=0)
    penalty.backward()
    found = torch.cat([p.grad.flatten() for p in method.trainable()])
    torch.testing.assert_close(found, 1.4 * omega * (theta - anchor), rtol=1e-3, atol=1e-5)


def test_without_strength_it_is_sgd(make_trainer: MakeTrainer) -> None:
    require_sgd(make_trainer, lambda n: MAS(n, 0.0), lambda n: MAS(n, 0.1))


@pytest.mark.parametrize("strength", [-1.0, float("inf")])
def test_a_strength_out_of_range_is_refused(make: Callable[..., Any], strength: float) -> None:
    with pytest.raises(UserError, match=r"model\.strength=.*must be 0 or more"):
        make(MAS, strength=strength)


def test_the_contract_of_a_method() -> None:
    check_method(MAS, {"strength": 0.1})


def test_a_growing_head() -> None:
    check_method(MAS, {"strength": 0.1}, backbone=growing, settings={"loss_scope": "seen"})
