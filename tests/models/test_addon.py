"""An add-on around methods of every kind: facts, draws, outputs and hooks of the base stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.models.addon import AddOn, wrapped
from perdure.models.agem import AGEM
from perdure.models.base import Loss, Method, StepOutput
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.gem import GEM
from perdure.models.mir import MIR
from perdure.models.replay import Replay, method_draws

Digits = Callable[..., Batch]


class Scores(AddOn):
    """Adds the mean square of the scores of its draw."""

    def __init__(self, backbone: Any, base: Any, weight: float = 0.1) -> None:
        super().__init__(backbone, base, weight != 0)
        self.weight = weight

    def extra(self, past: Batch) -> Tensor:
        return self.weight * self(past.x).square().mean()


class Reserved(Method):
    """Takes no step where the batch has a 0."""

    replays = 1

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        if (batch.y == 0).any():
            return StepOutput(None, sums={"n": torch.tensor(len(past))})
        return batch.cross_entropy(self(batch.x))


def test_its_draw_comes_last_and_its_term_is_added(make: Any, digits: Digits) -> None:
    base = {"alpha": 0.5, "beta": 0.25}
    method, plain = make(wrapped(Scores, DERpp), base=base), make(DERpp, **base)
    past = [digits(10 * k, 10 * k + 10, logits=torch.randn(10, 10)) for k in (1, 2, 3)]
    found, without = method.loss(digits(0, 10), *past), plain.loss(digits(0, 10), *past[:2])
    wanted = without.loss + 0.1 * plain(past[2].x).square().mean()
    torch.testing.assert_close(found.loss, wanted)
    assert torch.equal(found.remember["logits"], without.remember["logits"])
    assert method.replays == 3


def test_with_an_empty_memory_it_is_the_base_method(make: Any, digits: Digits) -> None:
    method, empty = make(wrapped(Scores, ER), base={}), digits(0, 0)
    assert torch.equal(
        method.loss(digits(0, 10), empty, empty), make(ER).loss(digits(0, 10), empty)
    )


def test_no_loss_stays_no_loss(make: Any, digits: Digits) -> None:
    method = make(wrapped(Scores, Reserved), base={})
    found = method.loss(digits(0, 5, 0), digits(5, 8), digits(8, 12))
    assert found.loss is None
    assert int(found.sums["n"]) == 3


def test_draws_that_are_declared_one_by_one_get_another(make: Any) -> None:
    method = make(wrapped(Scores, MIR), base={"candidates": 30, "top": 10})
    assert method_draws(method) == (Replay(30), Replay())
    method = make(wrapped(Scores, MIR), base={"candidates": 30, "top": 10}, weight=0)
    assert method_draws(method) == (Replay(30),)


@pytest.mark.parametrize("base", [ER, DERpp, AGEM, GEM, MIR])
def test_facts_and_hooks_are_those_of_the_base(base: type[Method]) -> None:
    kind = wrapped(Scores, base)
    facts = ("stored_fields", "store_at", "joint", "scenarios", "loss_scope", "needs_boundaries")
    assert all(getattr(kind, fact) == getattr(base, fact) for fact in facts)
    hooks = ("references", "after_backward", "after_task", "before_task", "grow", "annotate")
    assert [kind.defines(hook) for hook in hooks] == [base.defines(hook) for hook in hooks]
    assert kind.__name__ == f"{base.__name__}Scores"
    assert not kind.additive


@pytest.mark.parametrize(
    ("base", "options"),
    [(AGEM, {}), (GEM, {"margin": 0.5, "ridge": 1e-3}), (MIR, {"candidates": 20, "top": 6})],
)
def test_the_contract(base: type[Method], options: dict[str, Any]) -> None:
    """References get the base's draws; draws by task and of other sizes come before its own."""
    check_method(wrapped(Scores, base), {"base": options}, every=20)
