"""Evaluation: accuracy on tasks, class-IL and task-IL, confusion counts, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.distributed.process_group import Ranks
from perdure.models.base import Method


@dataclass(frozen=True)
class Counts:
    """What one evaluation counted; tensors are on the device until `on_host`.

    Attributes:
        total: number of examples of each task evaluated.
        correct: accuracy's name → int64 [tasks], how many were answered correctly.
        confusion: int64 [C, C], true by predicted class of the C seen, where it was asked for.
        classes: names of these C classes.
    """

    total: list[int]
    correct: dict[str, Tensor]
    confusion: Tensor | None = None
    classes: tuple[str, ...] = ()

    def on_host(self) -> Counts:
        """The same on the CPU, in one transfer, which waits for the device."""
        return self.mapped(lambda flat: flat.cpu())

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Counts:
        """The same after `function` of all counts as one vector."""
        parts = [*self.correct.values(), *([] if self.confusion is None else [self.confusion])]
        flat = function(torch.cat([part.flatten() for part in parts]))
        new = [
            piece.view_as(part)
            for part, piece in zip(parts, flat.split([p.numel() for p in parts]), strict=True)
        ]
        confusion = None if self.confusion is None else new[-1]
        return replace(
            self, correct=dict(zip(self.correct, new, strict=False)), confusion=confusion
        )


class Observer(Protocol):
    """Sees the scores that an evaluation counts, batch by batch, on the device."""

    def __call__(self, task: int, scores: Tensor, y: Tensor, among: range) -> None:
        """Take in scores [B, classes] and labels [B] of `task`; choices are `among` classes."""


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
    """

    def __init__(
        self,
        method: Method,
        benchmark: Scenario,
        transform: Scale,
        batch_size: int,
        ranks: Ranks | None = None,
        together: bool = False,
    ) -> None:
        self.method = method
        self.benchmark = benchmark
        self.transform = transform
        self.batch_size = batch_size
        self.ranks = ranks or Ranks()
        self.together = together and self.ranks.size > 1

    @torch.no_grad()
    def count(
        self,
        tasks: Sequence[int],
        seen: range,
        confused: range = range(0),
        observer: Observer | None = None,
    ) -> Counts:
        """Correct answers on each of `tasks`.

        Class-IL chooses among the classes seen so far (and, for a task of the future, those up
        to its own); task-IL among the classes of the example's own task.

        Args:
            tasks: which tasks to evaluate.
            seen: the classes trained so far.
            confused: of which tasks, all of them seen, to count also what each class was taken for,
                by the benchmark's first accuracy (class-IL, domain-IL); of none by default.
            observer: sees all scores; this rank's share of them where there are several.
        """
        training = self.method.training
        self.method.eval()
        counts = self._zeros(len(tasks), seen.stop if confused else 0)
        turn = 0
        for place, task in enumerate(tasks):
            counts.total.append(
                self._count_task(task, place, seen, turn, counts, task in confused, observer)
            )
            # Batches are dealt out over all tasks, so that short tasks do not all fall to rank 0.
            turn += -(-counts.total[-1] // self.batch_size)
        if self.together:
            from perdure.distributed.fsdp import reshard

            reshard(self.method.backbone)
        self.method.train(training)
        # One all-reduce; integers, so that their sum is exact in any order.
        alone = self.ranks.size == 1 or not counts.total
        return counts if alone else counts.mapped(self.ranks.sum_counts)

    def _zeros(self, n_tasks: int, n_confused: int) -> Counts:
        """Counts of nothing yet: of so many tasks, and of confusions of so many classes."""
        device = self.benchmark.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return Counts(
            [],
            {name: zeros(n_tasks) for name in self.benchmark.accuracies},
            zeros(n_confused, n_confused) if n_confused else None,
            self.benchmark.class_names[:n_confused],
        )

    def _count_task(
        self,
        task: int,
        place: int,
        seen: range,
        turn: int,
        counts: Counts,
        confused: bool,
        observer: Observer | None,
    ) -> int:
        """Add this rank's share of a task, whose first batch belongs to rank `turn` (mod ranks).

        Returns how many examples the whole task has.
        """
        split = self.benchmark.evaluation(task)
        own = self.benchmark.classes(task)
        ranges = {"class_il": range(max(seen.stop, own.stop)), "task_il": own, "domain_il": own}
        first = next(iter(counts.correct))
        batches = zip(split.x.split(self.batch_size), split.y.split(self.batch_size), strict=True)
        for number, (raw, y) in enumerate(batches, turn):
            if number % self.ranks.size != self.ranks.rank:
                if not self.together:
                    continue
                # FSDP gathers the parameters in a collective call: every rank runs every batch.
                raw, y = raw[:0], y[:0]
            logits = self.method.predict(self.transform(raw, None))
            if observer is not None:
                observer(task, logits, y, ranges[first])
            for name, correct in counts.correct.items():
                among = ranges[name]
                choice = logits[:, among.start : among.stop].argmax(1) + among.start
                correct[place] += (choice == y).sum()
                if confused and name == first and counts.confusion is not None:
                    _add_pairs(counts.confusion, y, choice)
        return len(split.y)


def _add_pairs(confusion: Tensor, y: Tensor, choice: Tensor) -> None:
    """Count (y, choice), int64 [B] each, in [C, C]; a bincount would make the host wait."""
    pairs = y * confusion.shape[1] + choice
    confusion.view(-1).scatter_add_(0, pairs, torch.ones_like(pairs))


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
