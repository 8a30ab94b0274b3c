"""Phases of a task, several updates a batch, references, rows and sums: the rest of the contract.

Each method here is the smallest that shows one part; `check_method` compares whole runs with
resumed ones, in shards and not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer, check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.er import ER
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.models.replay import Replay
from perdure.models.sgd import FineTuning
from perdure.tracking.events import StepLog, TaskStart
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


class Repeated(ER):
    """Three updates a batch, with an interpolation at its end."""

    updates_seen: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("updates_seen", torch.zeros(3, dtype=torch.int64))
        self.drawn: list[list[int]] = []

    def updates(self, batch: Batch) -> int:
        return 3

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.drawn.append(replay[0].y.tolist())
        noise = torch.randn(len(batch) + len(replay[0]), 10)
        both = batch + replay[0]
        return both.cross_entropy(self(both.x) + 1e-2 * noise)

    def after_backward(self, references: Tensor | None) -> None:
        if self.update == 0:
            self.start = [p.detach().clone() for p in self.trainable()]

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.updates_seen[self.update] += 1

    @torch.no_grad()
    def after_batch(self) -> None:
        for p, start in zip(self.trainable(), self.start, strict=True):
            p.lerp_(start, 0.1)


def test_several_updates_on_a_batch(make_trainer: MakeTrainer) -> None:
    check_method(Repeated)
    trainer = make_trainer(Repeated, iterations=5, stop_after=1)
    trainer.fit()
    assert trainer.method.updates_seen.tolist() == [5, 5, 5]
    assert trainer.state.buffer is not None
    assert trainer.state.buffer.seen == 50, "stored once, however many updates"
    draws = trainer.method.drawn[-3:]
    assert len(set(map(tuple, draws))) == 3, "each update draws replay of its own"


def test_the_configuration_s_updates_reach_every_method(make_trainer: MakeTrainer) -> None:
    check_method(ER, settings={"updates": 2})
    twice = make_trainer(ER, updates=2, iterations=4)
    once = make_trainer(ER, iterations=4)
    assert twice.fit()["global_step"] == once.fit()["global_step"] == 12
    assert not torch.equal(twice.method.backbone.head.weight, once.method.backbone.head.weight)
    with pytest.raises(UserError, match=r"training\.updates=2: Repeated says itself"):
        make_trainer(Repeated, updates=2)


class TwoReferences(ER):
    """Keeps the gradients of two further losses."""

    def references(self, *replay: Batch) -> Iterator[Tensor]:
        if replay[0]:
            yield replay[0].cross_entropy(self(replay[0].x))
            yield replay[0].mean(self(replay[0].x).square().sum(1))

    def after_backward(self, references: Tensor | None) -> None:
        self.given = references
        if references is not None:
            for p, part in zip(
                self.trainable(),
                references.mean(0).split([p.numel() for p in self.trainable()]),
                strict=True,
            ):
                assert p.grad is not None
                p.grad += 0.1 * part.view_as(p)


@pytest.mark.parametrize("shards", [1, 3])
def test_gradients_of_further_losses(make_trainer: MakeTrainer, shards: int) -> None:
    check_method(TwoReferences)
    trainer = make_trainer(TwoReferences, iterations=2, stop_after=1, shards=shards)
    replayed: list[Batch] = []
    references = trainer.method.references

    def noted(*replay: Batch) -> Iterator[Tensor]:
        replayed.append(replay[0])
        return references(*replay)

    object.__setattr__(trainer.method, "references", noted)
    before: list[Tensor] = []
    hook = trainer.method.after_backward

    def at_these_weights(given: Tensor | None) -> None:
        before[:] = [p.detach().clone() for p in trainer.method.trainable()]
        hook(given)

    object.__setattr__(trainer.method, "after_backward", at_these_weights)
    trainer.fit()
    given = trainer.method.given
    assert given.shape == (2, sum(p.numel() for p in trainer.method.trainable()))
    with torch.no_grad():
        for p, value in zip(trainer.method.trainable(), before, strict=True):
            p.copy_(value)
    x = torch.cat([part.x for part in replayed[-shards:]])
    y = torch.cat([part.y for part in replayed[-shards:]])
    z = trainer.method(x)
    for row, loss in zip(
        given,
        (torch.nn.functional.cross_entropy(z, y), z.square().sum(1).mean()),
        strict=True,
    ):
        parts = torch.autograd.grad(loss, trainer.method.trainable(), retain_graph=True)
        expected = torch.cat([part.flatten() for part in parts])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-6)


class Statistics(FineTuning):
    """Streaming means of the inputs by class, from rows alone; a loss is logged."""

    sums_of: Tensor
    counts: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("sums_of", torch.zeros(10, 784, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(10, dtype=torch.int64))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        rows = {"x": batch.x.flatten(1), "y": batch.y}
        loss = batch.cross_entropy(self(batch.x))
        return StepOutput(loss, rows=rows, log={"twice": 2 * loss})

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.sums_of.index_add_(0, rows["y"], rows["x"].double())
        self.counts += torch.bincount(rows["y"], minlength=10)


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_are_those_of_the_global_batch(make_trainer: MakeTrainer, shards: int) -> None:
    listener = Listener()
    trainer = make_trainer(Statistics, epochs=1, shards=shards, recorders=[listener])
    trainer.fit()
    x = torch.cat([trainer.benchmark.train(t).x for t in range(3)]).flatten(1).double() / 255
    y = torch.cat([trainer.benchmark.train(t).y for t in range(3)])
    expected = torch.zeros(10, 784, dtype=torch.float64).index_add_(0, y, x)
    assert torch.equal(trainer.method.counts, torch.bincount(y, minlength=10))
    torch.testing.assert_close(trainer.method.sums_of, expected, rtol=1e-6, atol=1e-6)
    for event in listener.of(StepLog):
        assert event.logged["twice"] == pytest.approx(2 * event.loss, rel=1e-6)
    check_method(Statistics)


class Means(FineTuning):
    """Class means derived before each evaluation."""

    keeps_exemplars = True
    store_at = "task"
    evaluations = 0

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.evaluations += 1
        self.held = len(memory)
        self.noise = torch.randn(10)
        self.own = sum(len(batch) for batch in data(50))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return self(x) + 1e-3 * self.noise


def test_what_is_derived_before_an_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Means, epochs=2, evaluate_every=1)
    trainer.fit()
    assert trainer.method.evaluations == 6
    assert trainer.method.held == 50
    assert trainer.method.own == trainer.benchmark.n_train(2)
    check_method(Means)


class Knows(FineTuning):
    needs_n_tasks = True

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert self.task.n_tasks == 3
        return batch.cross_entropy(self(batch.x))


def test_the_number_of_tasks_is_told_where_it_is_needed(make_trainer: MakeTrainer) -> None:
    assert make_trainer(Knows, iterations=2).fit()["status"] == "finished"
    other = make_trainer(FineTuning, iterations=2)
    other.fit()
    assert other.method.task.n_tasks is None


class Renewing(FineTuning):
    """Stores logits, and renews those of what it replays."""

    replays = (Replay(8), Replay(5))
    stored_fields = ("logits",)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        z = self(batch.x)
        if not replay[0]:
            return StepOutput(batch.cross_entropy(z), {"logits": z})
        new = {
            draw: {"logits": past["index"][:, None] + torch.full((len(past), 10), 100.0 * draw)}
            for draw, past in enumerate(replay)
        }
        return StepOutput(batch.cross_entropy(z), {"logits": torch.zeros_like(z)}, rewrite=new)


@pytest.mark.parametrize("shards", [1, 3])
def test_stored_fields_of_replayed_examples_are_rewritten(
    make_trainer: MakeTrainer, shards: int
) -> None:
    trainer = make_trainer(Renewing, iterations=40, stop_after=1, shards=shards)
    trainer.fit()
    assert trainer.state.buffer is not None
    logits = trainer.state.buffer.contents()["logits"]
    slots = torch.arange(len(logits), dtype=torch.float32)
    of_draw = [(logits[:, 0] == slots + 100 * draw) for draw in (0, 1)]
    new = (logits == 0).all(1)
    assert (of_draw[0] | of_draw[1] | new).all(), "each has its own slot's value, or is new"
    assert all(int(found.sum()) > 3 for found in of_draw)
    check_method(Renewing)


class TwoViews(FineTuning):
    """Keeps the two views of the first batch."""

    views = 2

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.seen: list[Tensor] = []

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert torch.equal(batch.x, batch.view(0))
        self.seen.append(torch.stack([batch.view(0), batch.view(1)]))
        return batch.cross_entropy(self(batch.view(1)))


def test_views_are_further_draws_of_the_augmentation(make_trainer: MakeTrainer) -> None:
    views = []
    for shards in (1, 3):
        trainer = make_trainer(
            TwoViews, iterations=1, stop_after=1, shards=shards, transform=CropFlip(padding=3)
        )
        trainer.fit()
        views.append(torch.cat(trainer.method.seen, 1))
    assert torch.equal(views[0], views[1]), "drawn for each example of the global batch"
    assert not torch.equal(views[0][0], views[0][1])
    plain = make_trainer(FineTuning, iterations=1, stop_after=1, transform=CropFlip(padding=3))
    step, noted = plain.method.loss, []
    object.__setattr__(plain.method, "loss", lambda b, *r: (noted.append(b.x), step(b, *r))[1])
    plain.fit()
    assert torch.equal(noted[0], views[0][0]), "the first view is the only one of other methods"
