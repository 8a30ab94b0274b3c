"""Evaluation: accuracy on tasks, class-IL and task-IL, confusion counts, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from perdure.datasets.arrays import Split
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.base import Method


@dataclass(frozen=True)
class Counts:
    """What one evaluation counted; tensors are on the device until `on_host`.

    Attributes:
        total: number of examples of each task evaluated.
        correct: accuracy's name → int64 [tasks], how many were answered correctly.
        confusion: int64 [C, C], true by predicted class of the C seen, where it was asked for.
        classes: names of these C classes.
        raw: what was recorded beside the counts, int64 tensors by name, where it was asked for.
    """

    total: list[int]
    correct: dict[str, Tensor]
    confusion: Tensor | None = None
    classes: tuple[str, ...] = ()
    raw: dict[str, Tensor] = field(default_factory=dict)

    def on_host(self) -> Counts:
        """The same on the CPU, in one transfer, which waits for the device."""
        return self.mapped(lambda flat: flat.cpu())

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Counts:
        """The same after `function` of all counts as one vector."""
        confusion = [] if self.confusion is None else [self.confusion]
        parts = [*self.correct.values(), *self.raw.values(), *confusion]
        flat = function(torch.cat([part.flatten() for part in parts]))
        new = iter(
            piece.view_as(part)
            for part, piece in zip(parts, flat.split([p.numel() for p in parts]), strict=True)
        )
        return replace(
            self,
            correct={name: next(new) for name in self.correct},
            raw={name: next(new) for name in self.raw},
            confusion=next(new, None),
        )


class Observer(Protocol):
    """Sees the scores that an evaluation counts, batch by batch, on the device."""

    def __call__(self, task: int, scores: Tensor, y: Tensor, among: Classes) -> None:
        """Take in scores [B, classes] and labels [B] of `task`; choices are `among` classes."""


class RawRecord(Protocol):
    """Records of each example what the counts forget, batch by batch, on the device."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is recorded, int64; zero where another rank evaluates, so that sums join them."""

    def add(self, place: int, start: int, y: Tensor, chosen: Tensor, among: Classes) -> None:
        """Take in a batch before `choose`.

        Args:
            place: of the task among those evaluated.
            start: of the batch's first example in the task.
            y: labels, int64 [B].
            chosen: scores of the classes chosen among, [B, len(among)].
            among: these classes, of the benchmark's first accuracy.
        """

    def choose(self, name: str, choice: Tensor) -> None:
        """Take in the labels int64 [B] that were chosen for accuracy `name` in that batch."""


class Evaluator:
    """Counts correct answers on the device.

    The counts stay there as tensors: reading each batch's (`.item()`) would let the device idle
    while the host prepares the next. The caller reads them once, when everything is queued.

    Args:
        method: its `predict` gives class scores.
        benchmark: the tasks.
        transform: raw bytes to inputs, without augmentation.
        batch_size: examples a forward pass.
        ranks: share the batches; each batch is evaluated by exactly one of them.
        together: whether the network is split, so that no rank can run it without the others.
        accuracies: names of those to count; by default those of `measurable`.

    Raises:
        UserError: the benchmark has no accuracy that the method can be measured by.
    """

    def __init__(
        self,
        method: Method,
        benchmark: Scenario,
        transform: Scale,
        batch_size: int,
        ranks: Ranks | None = None,
        together: bool = False,
        accuracies: Sequence[str] | None = None,
    ) -> None:
        self.method = method
        self.benchmark = benchmark
        self.transform = transform
        self.batch_size = batch_size
        self.ranks = ranks or Ranks()
        self.together = together and self.ranks.size > 1
        self.accuracies = tuple(accuracies or measurable(method, benchmark))
        self._own: dict[int, Classes] = {}
        self._sizes: dict[int, int] = {}

    @torch.no_grad()
    def count(
        self,
        tasks: Sequence[int],
        seen: Collection[int],
        confused: range = range(0),
        observer: Observer | None = None,
        record: RawRecord | None = None,
    ) -> Counts:
        """Correct answers on each of `tasks`.

        Class-IL chooses among the classes seen so far (and, for a task of the future, those up
        to its own; before a stream without boundaries, all); task-IL among the classes of the
        example's own task. Confusions leave out examples of classes that have not been seen.

        Args:
            tasks: which tasks to evaluate.
            seen: the classes trained so far.
            confused: of which tasks, all of them seen, to count also what each class was taken for,
                by the benchmark's first accuracy (class-IL, domain-IL); of none by default.
            observer: sees all scores; this rank's share of them where there are several.
            record: is filled with this rank's share, and joined with the others' in the result.
        """
        seen = Classes.of(seen)
        counts = self._zeros(len(tasks), seen if confused else Classes())
        if record is not None:
            counts.raw.update(record.tensors)
        turn = 0
        with self._evaluating():
            for place, task in enumerate(tasks):
                observers = (task in confused, observer, record)
                counts.total.append(self._count_task(task, place, seen, turn, counts, *observers))
                # Batches are dealt out over all tasks, or short tasks would all fall to rank 0.
                turn += -(-counts.total[-1] // self.batch_size)
        # One all-reduce; integers, so that their sum is exact in any order.
        alone = self.ranks.size == 1 or not counts.total
        return counts if alone else counts.mapped(self.ranks.sum_counts)

    def _zeros(self, n_tasks: int, confused: Classes) -> Counts:
        """Counts of nothing yet: of so many tasks, and of confusions of these classes."""
        device = self.benchmark.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return Counts(
            [],
            {name: zeros(n_tasks) for name in self.accuracies},
            zeros(len(confused), len(confused)) if confused else None,
            tuple(self.benchmark.class_names[label] for label in confused),
        )

    def _count_task(
        self,
        task: int,
        place: int,
        seen: Classes,
        turn: int,
        counts: Counts,
        confused: bool,
        observer: Observer | None,
        record: RawRecord | None,
    ) -> int:
        """Add this rank's share of a task, whose first batch belongs to rank `turn` (mod ranks).

        Returns how many examples the whole task has.
        """
        split = self.benchmark.evaluation(task)
        among, first = self._among(task, seen), self.accuracies[0]
        batches = zip(split.x.split(self.batch_size), split.y.split(self.batch_size), strict=True)
        for number, (raw, y) in enumerate(batches, turn):
            if number % self.ranks.size != self.ranks.rank:
                if not self.together:
                    continue
                # FSDP gathers the parameters in a collective call: every rank runs every batch.
                raw, y = raw[:0], y[:0]
            logits = self._scores(raw, task)
            if observer is not None:
                observer(task, logits, y, among[first])
            if record is not None:
                start = (number - turn) * self.batch_size
                record.add(place, start, y, among[first].select(logits), among[first])
            for name, correct in counts.correct.items():
                choice = among[name].labels(among[name].select(logits).argmax(1))
                correct[place] += (choice == y).sum()
                if record is not None:
                    record.choose(name, choice)
                if confused and name == first and counts.confusion is not None:
                    self._add_pairs(counts.confusion, seen, y, choice)
        return len(split.y)

    @torch.no_grad()
    def correct(
        self, sets: Sequence[tuple[int, Split]], seen: Collection[int]
    ) -> dict[str, list[int]]:
        """Accuracy's name → how many of each set are answered correctly; waits for the device.

        Every rank counts all of them. They go through the network at once, unless the method must
        be told the task.

        Args:
            sets: a few examples each, and the task whose they are.
            seen: the classes trained so far.
        """
        seen = Classes.of(seen)
        with self._evaluating():
            if self.method.needs_task_id or len(sets) == 1:
                logits = [self._scores(split.x, task) for task, split in sets]
            else:
                whole = self._scores(torch.cat([split.x for _, split in sets]), sets[0][0])
                logits = list(whole.split([len(split) for _, split in sets]))
        among = [self._among(task, seen) for task, _ in sets]
        counts = []
        for name in self.accuracies:
            for known, scores, (_, split) in zip(among, logits, sets, strict=True):
                choice = known[name].labels(known[name].select(scores).argmax(1))
                counts.append((choice == split.y).sum())
        numbers, n = torch.stack(counts).tolist(), len(sets)
        return {name: numbers[i * n : (i + 1) * n] for i, name in enumerate(self.accuracies)}

    def n_examples(self, task: int) -> int:
        """How many examples measure accuracy on `task`; counting them waits for the device once."""
        if task not in self._sizes:
            self._sizes[task] = self.benchmark.n_evaluation(task)
        return self._sizes[task]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The method in evaluation mode; a network in parts is in parts again afterwards."""
        training = self.method.training
        self.method.eval()
        yield
        if self.together:
            from perdure.distributed.fsdp import reshard

            reshard(self.method.backbone)
        self.method.train(training)

    def _scores(self, raw: Tensor, task: int) -> Tensor:
        """Class scores [B, classes]; the method learns the task's index only where it needs it."""
        predict: Any = self.method.predict
        x = self.transform(raw, None)
        scores: Tensor = predict(x, task) if self.method.needs_task_id else predict(x)
        return scores

    def _among(self, task: int, seen: Classes) -> dict[str, Classes]:
        """Accuracy's name → the classes that are chosen among for an example of `task`."""
        own = self._own.setdefault(task, Classes.of(self.benchmark.classes(task)))
        known = seen
        if self.benchmark.boundaries or not seen:
            known = seen | self.benchmark.seen(task)
        return {"class_il": known, "task_il": own, "domain_il": own}

    def _add_pairs(self, confusion: Tensor, seen: Classes, y: Tensor, choice: Tensor) -> None:
        """Count (y, choice), labels int64 [B] each, in [C, C] of the C classes seen.

        A bincount would make the host wait.
        """
        row, column = seen.positions(y), seen.positions(choice)
        pairs = row * confusion.shape[1] + column
        ones = torch.ones_like(pairs)
        if not self.benchmark.boundaries:  # in a stream that was not trained to its end
            known = seen.mask(y)
            pairs, ones = pairs * known, ones * known
        confusion.view(-1).scatter_add_(0, pairs, ones)


def measurable(method: Method, benchmark: Scenario) -> tuple[str, ...]:
    """Names of the benchmark's accuracies that are defined for `method`.

    Class-IL is not where the method must be told the task of an example.

    Raises:
        UserError: none is.
    """
    names = benchmark.accuracies
    if method.needs_task_id:
        names = tuple(name for name in names if name != "class_il")
    if not names:
        raise UserError(
            f"{type(method).__name__} must be told the task of an example, which a "
            f"{benchmark.kind} benchmark does not give at test time"
        )
    return names


def is_due(task: int, n_tasks: int, every: int) -> bool:
    """Whether accuracy is measured at the end of `task`: of each `every`-th one and of the last."""
    return (task + 1) % every == 0 or task + 1 == n_tasks


def measured(accuracy: dict[str, list[float]], trained: int) -> dict[str, float]:
    """The accuracies of one evaluation that `checkpoint.monitor` can name.

    `average_accuracy.<name>` is the mean over them, `accuracy.<name>` that on the last one.
    """
    values: dict[str, float] = {}
    for name, row in accuracy.items():
        seen = row[: trained + 1]
        if seen:
            values[f"average_accuracy.{name}"] = sum(seen) / len(seen)
            values[f"accuracy.{name}"] = seen[-1]
    return values
