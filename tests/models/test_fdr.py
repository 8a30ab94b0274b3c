"""FDR: the distance against plain loops, its step, and what it distills."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, StepOutput
from perdure.models.fdr import FDR
from perdure.models.sgd import FineTuning

Digits = Callable[..., Batch]
Make = Callable[..., Any]


def probabilities(logits: Tensor) -> list[list[float]]:
    rows = []
    for z in logits.double().tolist():
        top = max(z)
        powers = [math.exp(value - top) for value in z]
        rows.append([power / sum(powers) for power in powers])
    return rows


def memory(digits: Digits, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    stored = torch.randn(12, 10, generator=generator).softmax(1)
    return digits(0, 12, 0, 1, probabilities=stored)


def by_loops(z: Tensor, target: Tensor) -> float:
    """The mean over the examples of the norm of the difference."""
    total = 0.0
    for p, q in zip(probabilities(z), target.double().tolist(), strict=True):
        total += math.sqrt(sum((a - b) ** 2 for a, b in zip(p, q, strict=True)))
    return total / len(target)


def test_the_first_step_is_on_new_examples_and_the_second_on_old_ones(
    make: Make, digits: Digits
) -> None:
    method, batch, past = make(FDR, alpha=0.3, steps=2), digits(0, 10, 2, 3), memory(digits)
    assert method.updates(batch) == 2
    assert torch.equal(method.loss(batch, past), batch.cross_entropy(method(batch.x)))
    method.update = 1
    loss = method.loss(batch, past).item()
    expected = 0.3 * by_loops(method(past.x), past["probabilities"])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_one_step_is_on_the_sum(make: Make, digits: Digits) -> None:
    method, batch, past = make(FDR, alpha=0.3, steps=1), digits(0, 10, 2, 3), memory(digits)
    assert method.updates(batch) == 1
    expected = batch.cross_entropy(method(batch.x)).item()
    expected += 0.3 * by_loops(method(past.x), past["probabilities"])
    assert method.loss(batch, past).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_stored_is_the_output_as_it_is(make: Make, digits: Digits) -> None:
    """So the distance is 0 until the network moves, and its gradient there is no NaN."""
    method, batch = make(FDR, alpha=1.0, steps=2), digits(0, 12, 0, 1)
    stored = method.annotate(batch)["probabilities"].detach()
    torch.testing.assert_close(
        stored.double(), torch.tensor(probabilities(method(batch.x)), dtype=torch.float64)
    )
    method.update = 1
    loss = method.loss(batch, digits(0, 12, 0, 1, probabilities=stored))
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, method.trainable())
    assert all(not gradient.any() for gradient in gradients)


def test_without_memory_there_is_no_second_step(make: Make, digits: Digits) -> None:
    method, batch, nothing = make(FDR, alpha=1.0, steps=2), digits(0, 10), digits(0, 0)
    method.update = 1
    output = method.loss(batch, nothing)
    assert isinstance(output, StepOutput)
    assert output.loss is None
    assert make(FDR, task=0, alpha=1.0, steps=2).updates(batch) == 1


class Watched(FDR):
    """Writes down the kinds of steps of each task."""

    seen: list[tuple[int, int, bool]]

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert all(label not in self.task.classes for label in replay[0].y.tolist())
        self.seen.append((self.task.index, self.update, bool(replay[0])))
        return super().loss(batch, *replay)


def test_the_first_task_equals_sgd_and_later_ones_take_two_steps(
    make_trainer: MakeTrainer,
) -> None:
    Watched.seen = []
    ends = []
    for kind in (FineTuning, lambda network: Watched(network, 1.0, 2)):
        trainer = make_trainer(kind, stop_after=1)
        trainer.fit()
        ends.append([p.detach().clone() for p in trainer.method.trainable()])
    assert all(map(torch.equal, *ends))
    assert {kind[1:] for kind in Watched.seen} == {(0, False)}
    Watched.seen = []
    make_trainer(lambda network: Watched(network, 1.0, 2)).fit()
    later = [kind for kind in Watched.seen if kind[0]]
    assert {kind[1:] for kind in later} == {(0, True), (1, True)}


@pytest.mark.parametrize("steps", [1, 2])
def test_the_contract(steps: int) -> None:
    check_method(FDR, {"alpha": 0.5, "steps": steps})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": -1.0, "steps": 2}, r"^model\.alpha=-1\.0: out of range; must be 0 or more$"),
        ({"alpha": 1.0, "steps": 3}, r"^model\.steps=3: .*; must be 1 or 2$"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Make, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(FDR, **options)
