"""STAR: the perturbation and its gradient, what counts, and that weight 0 is the base method."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor, nn

from perdure.backbones.mlp import MLP
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.addon import wrapped
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.star import Star

Digits = Callable[..., Batch]

LAMBDA, GAMMA = 0.3, 0.05
OPTIONS = {"base": {}, "strength": LAMBDA, "perturbation": GAMMA}


def trained(digits: Digits) -> MLP:
    """A network that classifies most digits correctly, not all."""
    torch.manual_seed(0)
    network = MLP((1, 28, 28), 10, (12,))
    optimizer, batch = torch.optim.SGD(network.parameters(), lr=0.3), digits(0, 60)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(network(batch.x), batch.y).backward()
        optimizer.step()
    return network


@pytest.fixture
def star(digits: Digits) -> Any:
    return wrapped(Star, ER)(trained(digits), **OPTIONS)


def mean_divergence(network: nn.Module, q: Tensor, past: Batch) -> Tensor:
    """Mean Σ_c q_c (log q_c − log p_c) over the examples that q has right."""
    right = q.argmax(1) == past.y
    p = network(past.x).softmax(1)
    return (q * (q.log() - p.log())).sum(1)[right].mean()


def test_the_gradient_is_that_of_the_two_steps_on_copied_weights(star: Any, digits: Digits) -> None:
    """Alg. 1 as it is written: move the weights of a copy, and differentiate there."""
    past = digits(0, 80)
    names = [name for name, _ in star.named_parameters()]
    before = [p.detach().clone() for p in star.parameters()]
    torch.manual_seed(5)
    loss = star.extra(past)
    found = torch.autograd.grad(loss, list(star.parameters()))
    assert all(map(torch.equal, star.parameters(), before))

    copy = deepcopy(star.backbone)
    q = copy(past.x).softmax(1).detach()
    n_right = int((q.argmax(1) == past.y).sum())
    assert 2 < n_right < 80
    torch.manual_seed(5)
    with torch.no_grad():
        for p in copy.parameters():
            if p.ndim > 1:
                z = torch.randn_like(p)
                p.add_(z, alpha=float(1e-3 * p.norm() / z.norm()))
    mean_divergence(copy, q, past).backward()
    with torch.no_grad():
        for p, theta in zip(copy.parameters(), star.backbone.parameters(), strict=True):
            if p.ndim > 1:
                p.add_(p.grad, alpha=float(GAMMA * theta.norm() / p.grad.norm()))
    copy.zero_grad()
    there = LAMBDA * mean_divergence(copy, q, past)
    there.backward()
    torch.testing.assert_close(loss, there, rtol=1e-4, atol=1e-7)
    for name, gradient, p in zip(names, found, copy.parameters(), strict=True):
        assert float(gradient.norm()) > 0, name
        torch.testing.assert_close(gradient, p.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_step_goes_up_and_has_the_size_gamma(star: Any, digits: Digits) -> None:
    past = digits(0, 80)
    weights = {n: p.detach() for n, p in star.named_parameters() if p.ndim > 1}
    q = star(past.x).softmax(1).detach()
    delta = star.worst(past, q, weights)
    assert delta.keys() == {"backbone.layers.0.weight", "backbone.head.weight"}
    for name, step in delta.items():
        assert float(step.norm() / weights[name].norm()) == pytest.approx(GAMMA, rel=0.05)

    def at(step: dict[str, Tensor]) -> float:
        moved = {n: p + step[n] for n, p in weights.items()}
        return float(star.divergence(past, q, moved).detach())

    other = {n: torch.randn_like(d) for n, d in delta.items()}
    assert at(delta) > 2 * at({n: o * delta[n].norm() / o.norm() for n, o in other.items()})


def test_wrong_examples_do_not_count(star: Any, digits: Digits) -> None:
    past = digits(0, 80)
    right = star(past.x).argmax(1) == past.y
    kept = Batch(past.raw[right], past.y[right], past.transform)
    losses = []
    for batch in (past, kept):
        torch.manual_seed(1)
        losses.append(star.extra(batch))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_right_ones_add_nothing(star: Any, digits: Digits, n: int) -> None:
    past = digits(0, 80)
    right = star(past.x).argmax(1) == past.y
    rows = torch.cat([right.nonzero()[:n], (~right).nonzero()[:5]]).squeeze(1)
    loss = star.extra(Batch(past.raw[rows], past.y[rows], past.transform))
    gradients = torch.autograd.grad(loss, list(star.parameters()))
    assert loss == 0
    assert all((g == 0).all() for g in gradients)


class Normalized(SmallConv):
    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(shape, n_classes, width=2)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


def test_batch_norm_counts_none_of_its_passes(digits: Digits) -> None:
    torch.manual_seed(0)
    method, past = wrapped(Star, ER)(Normalized((1, 28, 28), 10), **OPTIONS), digits(0, 30)
    past.y = method(past.x).argmax(1)
    method.train()
    buffers = [value.clone() for value in method.buffers()]
    loss = method.extra(past)
    loss.backward()
    assert loss > 0
    assert all(map(torch.equal, method.buffers(), buffers))


def test_strength_0_is_the_base_method_to_the_bit(make_trainer: Any) -> None:
    base = {"alpha": 0.5, "beta": 0.5}
    kinds = [lambda network: DERpp(network, **base)]
    for strength in (0.0, LAMBDA):
        options = {**OPTIONS, "base": base, "strength": strength}
        kinds.append(lambda network, o=options: wrapped(Star, DERpp)(network, **o))
    ends = []
    for kind in kinds:
        trainer = make_trainer(kind, iterations=15)
        trainer.fit()
        ends.append(trainer.method.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])
    assert ends[0].keys() == ends[2].keys()


def test_the_contract() -> None:
    base = {"alpha": 0.3, "beta": 0.5}
    check_method(wrapped(Star, DERpp), {**OPTIONS, "base": base})


@pytest.mark.parametrize("key", ["strength", "perturbation"])
def test_a_negative_value_is_refused(digits: Digits, key: str) -> None:
    with pytest.raises(UserError, match=rf"^addon\.{key}=-1: out of range; must be 0 or more"):
        wrapped(Star, ER)(MLP((1, 28, 28), 10), **{**OPTIONS, key: -1})
