"""Offline EWC: a Fisher information a task, and many penalties as one quadratic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import MakeTrainer, check_method
from quadratic_penalties import NO_MEMORY, data_of, gradients, growing, move, require_sgd
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.ewc import EWC

Digits = Callable[..., Batch]
EMPIRICAL = {"strength": 7.0, "fisher": "empirical"}


def fisher_by_loop(network: Backbone, batch: Batch) -> Tensor:
    found = list(gradients(network, batch, lambda z, y: -z.log_softmax(0)[y]))
    return torch.stack(found).double().square().mean(0)


def after_tasks(method: Any, digits: Digits, n: int) -> list[tuple[Tensor, Tensor]]:
    """End `n` tasks at other weights each; the pairs (F_k, θ*_k) by a loop, in float64."""
    pairs = []
    for k in range(n):
        move(method, k)
        batch = digits(9 * k, 9 * k + 9)
        pairs.append((fisher_by_loop(method.backbone, batch), method.weights().detach().double()))
        method.after_task(data_of(batch), NO_MEMORY)
    move(method, n)
    return pairs


@pytest.mark.parametrize("n", [1, 2, 4])
def test_one_quadratic_is_the_sum_of_all_tasks_penalties(
    make: Callable[..., Any], digits: Digits, n: int
) -> None:
    """Value and gradient of λ/2 Σ_k Σ F_k (θ − θ*_k)²."""
    method = make(EWC, **EMPIRICAL)
    pairs = after_tasks(method, digits, n)
    theta = method.weights().detach().double()
    expected = 3.5 * sum((f * (theta - a).square()).sum() for f, a in pairs)
    slope = 7.0 * sum(f * (theta - a) for f, a in pairs)
    penalty = method.penalty()
    torch.testing.assert_close(penalty.double(), expected, rtol=1e-4, atol=0)
    penalty.backward()
    found = torch.cat([p.grad.flatten() for p in method.trainable()])
    torch.testing.assert_close(found.double(), slope, rtol=1e-3, atol=1e-6 * slope.abs().max())


def test_state_and_its_size_do_not_grow(make: Callable[..., Any], digits: Digits) -> None:
    method = make(EWC, **EMPIRICAL)
    sizes = {name: value.shape for name, value in method.state_dict().items()}
    after_tasks(method, digits, 3)
    assert {name: value.shape for name, value in method.state_dict().items()} == sizes


def test_near_the_anchors_nothing_cancels(make: Callable[..., Any]) -> None:
    """In float32, F θ² − 2 θ Σ F_k θ*_k + Σ F_k θ*_k² would be nothing but rounding here."""
    method, pairs = make(EWC, **EMPIRICAL), []
    move(method, 0, 3.0)
    for k in range(3):
        generator = torch.Generator().manual_seed(k)
        fisher = 0.5 + torch.rand(method.anchor.shape, generator=generator)
        move(method, 10 + k, 1e-4)
        pairs.append((fisher, method.weights().detach()))
        method.mean_over = lambda *_, f=fisher: f
        method.after_task(None, NO_MEMORY)
    theta = method.weights().detach()
    exact = 3.5 * sum((f.double() * (theta.double() - a).square()).sum() for f, a in pairs)
    f, fa, faa = (sum(f * a**n for f, a in pairs) for n in range(3))
    expanded = 3.5 * (f * theta.square() - 2 * theta * fa + faa).sum()
    assert exact > 0
    assert method.penalty().item() == pytest.approx(exact.item(), rel=0.01)
    assert abs(expanded.item() / exact.item() - 1) > 0.5


def test_a_sampled_fisher_is_that_of_the_model(digits: Digits) -> None:
    """Of softmax regression it is the exact curvature p (1 − p) x², whatever the labels are."""
    torch.manual_seed(0)
    one = digits(3, 4)
    wrong = (one.y + 1) % 10
    many = Batch(one.raw.expand(20000, -1, -1, -1), wrong.expand(20000), Scale())
    method = EWC(MLP((1, 28, 28), 10, ()), 1.0, "sampled")
    with torch.no_grad():
        method.backbone.head.weight.mul_(3)
    p = method(one.x)[0].detach().softmax(0)
    exact = (p * (1 - p))[:, None] * one.x.flatten().square()
    method.after_task(data_of(many), NO_MEMORY)
    found = method.information[: exact.numel()].view_as(exact)
    assert exact.max() > 0.01
    assert ((found - exact).norm() / exact.norm()) < 0.05
    empirical = EWC(method.backbone, 1.0, "empirical")
    empirical.after_task(data_of(many), NO_MEMORY)
    by_label = empirical.information[: exact.numel()].view_as(exact)
    assert ((by_label - exact).norm() / exact.norm()) > 0.3


def test_equal_examples_give_the_fisher_of_one(make: Callable[..., Any], digits: Digits) -> None:
    """Squares of a batch's mean gradient, as some libraries have, would vanish or shrink."""
    one, batch = make(EWC, **EMPIRICAL), digits(0, 40)
    expected = fisher_by_loop(one.backbone, batch)
    one.after_task(data_of(batch), NO_MEMORY)
    torch.testing.assert_close(one.information.double(), expected, rtol=1e-3, atol=1e-8)
    loss = batch.cross_entropy(one(batch.x))
    mean = torch.cat([g.flatten() for g in torch.autograd.grad(loss, one.trainable())])
    assert mean.square().sum() < 0.6 * one.information.sum()


def test_there_is_no_penalty_in_the_first_task(make: Callable[..., Any], digits: Digits) -> None:
    method = make(EWC, task=0, **EMPIRICAL)
    assert method.penalty() is None
    method.after_task(data_of(digits(0, 10)), NO_MEMORY)
    assert torch.equal(method.anchor, method.weights())
    method.task = Task(1, range(2, 4), range(4))
    assert method.penalty() == 0, "at the anchor itself"


def test_without_strength_it_is_sgd(make_trainer: MakeTrainer) -> None:
    require_sgd(make_trainer, lambda n: EWC(n, 0.0, "sampled"), lambda n: EWC(n, 1.0, "sampled"))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"strength": -1.0, "fisher": "sampled"}, "strength"),
        ({"strength": float("nan"), "fisher": "sampled"}, "strength"),
        ({"strength": 1.0, "fisher": "exact"}, "fisher"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    make: Callable[..., Any], options: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}=.*must be"):
        make(EWC, **options)


@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
def test_the_contract_of_a_method(fisher: str) -> None:
    check_method(EWC, {"strength": 5.0, "fisher": fisher})


def test_a_growing_head() -> None:
    options = {"strength": 5.0, "fisher": "sampled"}
    check_method(EWC, options, backbone=growing, settings={"loss_scope": "seen"})


def test_a_grown_head_leaves_each_importance_with_its_weight(digits: Digits) -> None:
    """The head's block of new classes comes before the weights of the layers."""
    torch.manual_seed(0)
    benchmark = type("Shape", (), {"shape": (1, 28, 28), "n_classes": 10})
    network = growing(benchmark)
    network.grow(range(2))
    method = EWC(network, **EMPIRICAL)
    method.task = Task(0, range(2), range(2))
    method.grow(method.task)
    method.after_task(data_of(digits(0, 9, 0, 1)), NO_MEMORY)
    network.grow(range(2, 4))
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    method.task = Task(1, range(2, 4), range(4))
    method.grow(method.task)
    parts = method.information.split([p.numel() for p in named.values()])
    by_name = {n: (part, p) for (n, p), part in zip(named.items(), parts, strict=True)}
    new = {n for n in named if ".blocks.1." in n}
    assert len(new) == 2
    assert not any(by_name[n][0].any() for n in new)
    assert all(by_name[n][0].any() for n in named.keys() - new)
    assert method.penalty() == 0
    with torch.no_grad():
        network.head.blocks[1].weight.add_(1.0)
    assert method.penalty() == 0, "new weights are free"
    with torch.no_grad():
        network.head.blocks[0].weight.add_(1.0)
    assert method.penalty() > 0
