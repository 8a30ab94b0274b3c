"""Online EWC: the Fisher information one example at a time, and the penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from quadratic_penalties import growing
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.backbones.resnet import ReducedResNet18
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.ewc_online import EWCOnline
from perdure.models.memory import Memory

Digits = Callable[..., Batch]

NO_MEMORY = Memory(None, Scale())


def data_of(batch: Batch) -> Callable[[int], Iterator[Batch]]:
    """What the trainer hands to `after_task`: the examples, n at a time."""

    def data(n: int) -> Iterator[Batch]:
        for raw, y in zip(batch.raw.split(n), batch.y.split(n), strict=True):
            yield Batch(raw, y, batch.transform)

    return data


def fisher_by_loop(network: Backbone, batch: Batch) -> Tensor:
    """The mean of the squared gradient of −log p(y|x), an example at a time."""
    network.eval()
    total = torch.zeros(())
    for x, y in zip(batch.x, batch.y, strict=True):
        loss = -F.log_softmax(network(x[None]), 1)[0, y]
        parts = torch.autograd.grad(loss, list(network.parameters()))
        total = total + torch.cat([part.flatten() for part in parts]).square()
    return total / len(batch)


@pytest.mark.parametrize("n", [1, 5, 256], ids=["one by one", "some", "all"])
def test_fisher_is_the_mean_of_the_examples_squared_gradients(
    make: Callable[..., Any], digits: Digits, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.models.anchored.EXAMPLES", n)
    method, batch = make(EWCOnline, strength=1.0, decay=1.0), digits(0, 23)
    expected = fisher_by_loop(method.backbone, batch)
    method.after_task(data_of(batch), NO_MEMORY)
    assert expected.max() > 0
    torch.testing.assert_close(method.fisher, expected, rtol=1e-4, atol=1e-9)


def test_fisher_of_a_network_with_batch_norm(digits: Digits) -> None:
    """At evaluation's statistics, which stay as they were."""
    torch.manual_seed(0)
    network = ReducedResNet18((1, 28, 28), 10, width=2)
    with torch.no_grad():
        network(digits(0, 50).x)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    method, batch = EWCOnline(network, 1.0, 1.0), digits(50, 56)
    method.train()
    method.after_task(data_of(batch), NO_MEMORY)
    torch.testing.assert_close(method.fisher, fisher_by_loop(network, batch), rtol=1e-3, atol=1e-7)
    assert all(torch.equal(statistics[name], value) for name, value in network.named_buffers())


def test_fisher_decays_and_the_anchor_moves(make: Callable[..., Any], digits: Digits) -> None:
    """Eq. 9: F ← γ F + F_task, θ* ← θ."""
    method, first, second = make(EWCOnline, strength=1.0, decay=0.3), digits(0, 9), digits(9, 20)
    first_fisher = fisher_by_loop(method.backbone, first)
    method.after_task(data_of(first), NO_MEMORY)
    with torch.no_grad():
        for p in method.trainable():
            p.mul_(1.1)
    two = fisher_by_loop(method.backbone, second)
    method.after_task(data_of(second), NO_MEMORY)
    torch.testing.assert_close(method.fisher, 0.3 * first_fisher + two, rtol=1e-4, atol=1e-9)
    assert torch.equal(method.anchor, parameters_to_vector(method.trainable()))


def test_penalty_is_half_lambda_times_the_weighted_distance(make: Callable[..., Any]) -> None:
    """Eq. 8, and its gradient λ F (θ − θ*)."""
    method = make(EWCOnline, strength=7.0, decay=1.0)
    generator = torch.Generator().manual_seed(0)
    method.fisher.copy_(torch.rand(method.fisher.shape, generator=generator))
    method.anchor.copy_(torch.randn(method.anchor.shape, generator=generator))
    weights = parameters_to_vector(method.trainable()).detach()
    penalty = method.penalty()
    expected = 3.5 * (method.fisher.double() * (weights - method.anchor).double().square()).sum()
    torch.testing.assert_close(penalty.double(), expected, rtol=1e-5, atol=0)
    penalty.backward()
    gradient = torch.cat([p.grad.flatten() for p in method.trainable()])
    torch.testing.assert_close(gradient, 7.0 * method.fisher * (weights - method.anchor))


def test_there_is_no_penalty_in_the_first_task(make: Callable[..., Any], digits: Digits) -> None:
    method, batch = make(EWCOnline, task=0, strength=7.0, decay=1.0), digits(0, 10)
    assert method.penalty() is None
    assert torch.equal(method.loss(batch), F.cross_entropy(method(batch.x), batch.y))
    method.after_task(data_of(batch), NO_MEMORY)
    method.task = Task(1, range(2, 4), range(4))
    assert method.penalty() == 0, "at the anchor itself"


@pytest.mark.parametrize(
    "options",
    [{"strength": -1.0, "decay": 1.0}, {"strength": 1.0, "decay": -0.1}],
    ids=["strength", "decay"],
)
def test_negative_weights_are_refused(make: Callable[..., Any], options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"model\.strength=.*model\.decay=.*0 or more"):
        make(EWCOnline, **options)


def test_examples_pass_the_transform(make: Callable[..., Any], digits: Digits) -> None:
    """The Fisher information is that of the network's inputs, normalized as in training."""
    method, raw = make(EWCOnline, strength=1.0, decay=1.0), digits(0, 5)
    normalized = Batch(raw.raw, raw.y, Scale([0.1], [0.3]))
    expected = fisher_by_loop(method.backbone, normalized)
    method.after_task(data_of(normalized), NO_MEMORY)
    torch.testing.assert_close(method.fisher, expected, rtol=1e-4, atol=1e-9)


def test_a_growing_head() -> None:
    options = {"strength": 5.0, "decay": 0.9}
    check_method(EWCOnline, options, backbone=growing, settings={"loss_scope": "seen"})
