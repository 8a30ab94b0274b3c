"""Phases of a task: examples, optimizers, what is held out.

Each method here is the smallest that shows one part; `check_method` compares whole runs with
resumed ones, in shards and not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer, check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.er import ER
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.models.sgd import FineTuning
from perdure.tracking.events import TaskStart
from perdure.training.optim import SGD


class Seen(Method):
    """Stores at a task's end, and counts what it is trained on in each phase."""

    store_at = "task"
    keeps_exemplars = True
    joint = False
    order: tuple[Phase, ...] = ()
    counts: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("counts", torch.zeros(3, 3, 10, dtype=torch.int64))
        self.rates: dict[tuple[int, str], set[float]] = {}
        self.begun: list[tuple[int, str, int, int]] = []

    def phases(self, task: Task) -> Sequence[Phase]:
        return self.order

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        n = sum(len(batch) for batch in data(7))
        self.begun.append((self.task.index, phase.name, n, len(memory)))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert not replay
        self.rates.setdefault((self.task.index, self.task.phase), set()).add(self.lr)
        loss = batch.cross_entropy(self(batch.x) + 1e-3 * torch.randn(len(batch), 10))
        return StepOutput(loss, sums={"labels": torch.bincount(batch.y, minlength=10)})

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        number = [phase.name for phase in self.order].index(self.task.phase)
        self.counts[self.task.index, number] += sums["labels"]


class Tuned(Seen):
    """Trains on both, then more slowly on what is stored."""

    order = (
        Phase(data="task+memory"),
        Phase("tune", "memory", 2, 8, {"lr": 0.01}, after_storing=True),
    )


class Corrected(Seen):
    """Holds some out, and corrects with them before storing; then all is stored."""

    order = (
        Phase(data="task+memory", held_out=(0.1, 0.1)),
        Phase("correct", "held-out", 3, optimizer={"lr": 0.02}, class_balanced=True),
        Phase("tune", "task+memory", 1, class_balanced=True, after_storing=True),
    )


@pytest.mark.parametrize("kind", [Tuned, Corrected])
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "kept"])
def test_phases_resume_at_every_step(kind: type[Seen], reset: bool) -> None:
    check_method(
        kind,
        every=1,
        settings={"reset_optimizer": reset, "epochs": 1},
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
    )


def test_exemplars_of_earlier_classes_are_in_scope_of_a_phase_that_trains_on_them() -> None:
    check_method(Tuned, settings={"loss_scope": "current", "epochs": 1}, shards=[2])


def test_each_phase_has_its_examples_and_its_optimizer(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    trainer = make_trainer(Tuned, epochs=1, recorders=[listener])
    trainer.fit()
    method, sizes = trainer.method, [trainer.benchmark.n_train(t) for t in range(3)]
    held = [0, 50, 50]
    expected = [
        start
        for task, (n, before) in enumerate(zip(sizes, held, strict=True))
        for start in ((task, "main", n + before, before), (task, "tune", 50, 50))
    ]
    assert method.begun == expected
    assert method.counts[:, 0].sum(1).tolist() == [n + m for n, m in zip(sizes, held, strict=True)]
    assert method.counts[:, 1].sum(1).tolist() == [100, 100, 100]
    assert method.rates == {
        (task, name): {rate} for task in range(3) for name, rate in (("main", 0.1), ("tune", 0.01))
    }
    starts = [(e.task, e.n_examples, e.steps) for e in listener.of(TaskStart)]
    assert starts[:2] == [(0, sizes[0], -(-sizes[0] // 10)), (0, 50, 14)]


def test_what_is_held_out_is_seen_in_its_own_phase_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Corrected, epochs=1)
    trainer.fit()
    counts = trainer.method.counts
    for task in range(3):
        split = trainer.benchmark.train(task)
        there = torch.bincount(split.y, minlength=10)
        held = counts[task, 1] // 3
        balanced = held[held > 0]
        assert balanced.unique().numel() == 1, "as many of each class"
        own = list(trainer.benchmark.classes(task))
        assert (there - counts[task, 0])[own].tolist() == held[own].tolist()
        assert (held[: own[0]] > 0).all(), "exemplars of every earlier class are held out"
        last = counts[task, 2][: own[-1] + 1]
        assert last.unique().numel() == 1, "a balanced phase has as many of each class"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((), "must be one phase or more"),
        ((Phase(), Phase()), "with different names"),
        ((Phase(after_storing=True),), "the first of them before storing"),
        ((Phase(), Phase("a", after_storing=True), Phase("b")), "after storing must come last"),
        ((Phase("a", held_out=(0.1, 0)), Phase("b", held_out=(0, 0.1))), "one phase alone"),
    ],
)
def test_phases_that_make_no_sense(
    make_trainer: MakeTrainer, order: tuple[Phase, ...], message: str
) -> None:
    class Wrong(Seen):
        pass

    Wrong.order = order
    with pytest.raises(ValueError, match=message):
        make_trainer(Wrong)


def test_a_phase_of_a_memory_that_changes_meanwhile_is_refused(make_trainer: MakeTrainer) -> None:
    class Restless(ER):
        def phases(self, task: Task) -> Sequence[Phase]:
            return (Phase(data="task+memory"),)

    with pytest.raises(ValueError, match=r'declare store_at = "task"'):
        make_trainer(Restless)


def test_an_option_that_the_optimizer_lacks_is_one_sentence(make_trainer: MakeTrainer) -> None:
    class Odd(FineTuning):
        def phases(self, task: Task) -> Sequence[Phase]:
            return (Phase(), Phase("odd", optimizer={"betas": (0.9, 0.99)}))

    with pytest.raises(UserError, match="SGD has no betas, which phase odd"):
        make_trainer(Odd, iterations=2).fit()


@pytest.mark.parametrize("phase", [-1, 2])
def test_a_position_in_a_phase_that_there_is_not(make_trainer: MakeTrainer, phase: int) -> None:
    trainer = make_trainer(Tuned)
    state = trainer.state_dict()
    state["position"] = {**state["position"], "step": 1, "phase": phase, "phase_start": 0}
    with pytest.raises(ValueError, match=f"task 0 has no phase {phase}"):
        make_trainer(Tuned).load_state_dict(state)
