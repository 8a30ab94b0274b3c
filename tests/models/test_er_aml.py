"""ER-AML: the loss of pairs against a double loop, and which pairs are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.models import er_aml
from perdure.models.base import Task
from perdure.models.er_aml import ERAML, contrast

Digits = Callable[..., Batch]
Make = Callable[..., Any]
OPTIONS = {"temperature": 0.1, "base_temperature": 0.07}


def method_in(make: Make, task: int) -> Any:
    method = make(ERAML, **OPTIONS)
    method.task = Task(task, Classes((2 * task, 2 * task + 1)), Classes(range(2 * task + 2)))
    return method


def by_loops(h: Tensor, y: Tensor, drawn: Tensor, y_drawn: Tensor, complete: Tensor) -> float:
    n, total = len(y), 0.0
    there = [j for j in range(2 * n) if complete[j % n]]
    anchors = [i for i in range(n) if complete[i]]
    for i in anchors:
        power = {j: math.exp(float(h[i].double() @ drawn[j].double()) / 0.1) for j in there}
        positives = [j for j in there if y_drawn[j] == y[i]]
        total -= sum(math.log(power[j] / sum(power.values())) for j in positives) / len(positives)
    return total / len(anchors)


def pairs(n: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Three classes; the drawn negatives are positives of other examples. Two lack a partner."""
    generator = torch.Generator().manual_seed(0)
    h = F.normalize(torch.randn(n, 5, generator=generator), dim=1)
    drawn = F.normalize(torch.randn(2 * n, 5, generator=generator), dim=1)
    y = torch.arange(n) % 3
    return h, y, drawn, torch.cat((y, (y + 1) % 3)), torch.arange(n) % 4 != 2


def test_the_loss_of_pairs_is_that_of_a_double_loop() -> None:
    """Each row has its own sum in the denominator, which another library's has not."""
    found = contrast(*pairs(), 0.1)
    assert found.item() == pytest.approx(by_loops(*pairs()), rel=1e-5)


def test_the_order_of_the_examples_does_not_matter() -> None:
    h, y, drawn, y_drawn, complete = pairs()
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    both = torch.cat((order, order + 7))
    shuffled = (h[order], y[order], drawn[both], y_drawn[both], complete[order])
    torch.testing.assert_close(contrast(*shuffled, 0.1), contrast(*pairs(), 0.1))


def test_without_any_pair_the_loss_is_zero_and_has_a_gradient() -> None:
    h, y, drawn, y_drawn, complete = pairs()
    h.requires_grad_()
    loss = contrast(h, y, drawn, y_drawn, torch.zeros_like(complete), 0.1)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, h)[0].any()


def drawn_pairs(
    monkeypatch: pytest.MonkeyPatch, method: Any, batch: Batch, memory: Batch
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the loss of pairs is given."""
    given: list[Any] = []

    def watched(*args: Any) -> Tensor:
        given.extend(args)
        return contrast(*args)

    monkeypatch.setattr(er_aml, "contrast", watched)
    method.loss(batch, digits_of(memory, 4), memory)
    return tuple(given[:5])


def digits_of(memory: Batch, n: int) -> Batch:
    return Batch(memory.raw[:n], memory.y[:n], memory.transform)


def test_partners(make: Make, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another image of the class, and one of the other class of the task; never an old class."""
    method, batch, memory = method_in(make, 1), digits(0, 8, 2, 3), digits(30, 70, 0, 1, 2, 3)
    found: dict[int, set[int]] = {i: set() for i in range(8)}
    pool = batch + memory
    features = F.normalize(method.backbone.features(pool.x), dim=1).detach()
    for seed in range(60):
        torch.manual_seed(seed)
        _, y, drawn, y_drawn, complete = drawn_pairs(monkeypatch, method, batch, memory)
        assert torch.equal(y, batch.y)
        assert complete.all()
        assert torch.equal(y_drawn[:8], batch.y)
        assert torch.equal(y_drawn[8:], 5 - batch.y)
        for i in range(8):
            distance = (drawn[i].detach() - features).abs().sum(1)
            same = set((distance < 1e-5).nonzero().squeeze(1).tolist())
            assert same, "one of the pool"
            assert i not in same, "not the example itself"
            found[i] |= same
    old = set((pool.y < 2).nonzero().squeeze(1).tolist())
    assert all(not rows & old for rows in found.values())
    assert any(row >= 8 for row in found[0]), "of the memory too"
    assert any(row < 8 for row in found[0]), "of the batch too"


def test_an_example_without_a_partner_is_left_out(
    make: Make, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only one of its class has no positive; the others have it as their negative."""
    method, memory = method_in(make, 1), digits(0, 20, 0, 1)
    batch = digits(0, 4, 2) + digits(0, 1, 3)
    *_, complete = drawn_pairs(monkeypatch, method, batch, memory)
    assert complete.tolist() == [True] * 4 + [False]


def test_replayed_examples_have_their_cross_entropy(make: Make, digits: Digits) -> None:
    method, batch, past = method_in(make, 1), digits(0, 8, 2, 3), digits(0, 10, 0, 1)
    memory = digits(0, 30, 0, 1, 2, 3)
    torch.manual_seed(5)
    loss = method.loss(batch, past, memory)
    torch.manual_seed(5)
    expected = method.metric_loss(batch, batch + memory)
    expected = expected + F.cross_entropy(method.backbone(past.x), past.y)
    torch.testing.assert_close(loss, expected)


def test_the_first_task_is_learned_by_cross_entropy(make: Make, digits: Digits) -> None:
    method, batch, past = method_in(make, 0), digits(0, 8, 0, 1), digits(8, 14, 0, 1)
    expected = F.cross_entropy(method(batch.x), batch.y)
    torch.testing.assert_close(method.loss(batch, digits(0, 0), digits(0, 0)), expected)
    expected = expected + F.cross_entropy(method(past.x), past.y)
    torch.testing.assert_close(method.loss(batch, past, past), expected)


def test_the_contract() -> None:
    check_method(ERAML, OPTIONS)


@pytest.mark.parametrize("key", OPTIONS)
def test_a_temperature_of_zero_is_refused(make: Make, key: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}=0: divides similarities; must be above 0"):
        make(ERAML, **{**OPTIONS, key: 0})
