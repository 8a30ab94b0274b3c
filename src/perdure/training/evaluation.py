"""Accuracy on tasks: one pass over each gives class-IL and task-IL from the same logits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.distributed.process_group import Ranks
from perdure.models.base import Method


class Evaluator:
    """Counts correct answers on the device; nothing is read back until the caller does.

    Args:
        method: gives class scores through `predict`.
        benchmark: the tasks.
        transform: raw bytes to inputs, without augmentation.
        batch_size: examples a forward pass.
        ranks: who shares the batches; each is seen by exactly one of them.
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
    def count(self, tasks: Iterable[int], seen: range) -> dict[int, tuple[dict[str, Tensor], int]]:
        """Correct answers on each of `tasks`.

        Class-IL chooses among the classes seen so far (and, for a task of the future, those up
        to its own); task-IL among the classes of the example's own task.

        Args:
            tasks: which tasks to evaluate.
            seen: the classes trained so far.

        Returns:
            task → (accuracy's name → number correct, int64 [] on the device; number of examples).
        """
        training = self.method.training
        self.method.eval()
        wanted, turn = list(tasks), 0
        counts = {}
        for task in wanted:
            counts[task] = self._count_task(task, seen, turn)
            turn += -(-counts[task][1] // self.batch_size)
        if self.together:
            from perdure.distributed.fsdp import reshard

            reshard(self.method.backbone)
        self.method.train(training)
        return self._of_all_ranks(counts)

    def _of_all_ranks(
        self, counts: dict[int, tuple[dict[str, Tensor], int]]
    ) -> dict[int, tuple[dict[str, Tensor], int]]:
        """Whole numbers, so that their sum over ranks is exact."""
        if self.ranks.size == 1 or not counts:
            return counts
        flat = torch.stack([n for correct, _ in counts.values() for n in correct.values()])
        parts = iter(self.ranks.sum_counts(flat))
        return {
            task: ({name: next(parts) for name in correct}, total)
            for task, (correct, total) in counts.items()
        }

    def _count_task(self, task: int, seen: range, turn: int) -> tuple[dict[str, Tensor], int]:
        """This rank's share of a task whose first batch is the turn of rank `turn` (mod ranks)."""
        split = self.benchmark.evaluation(task)
        own = self.benchmark.classes(task)
        ranges = {
            "class_il": range(max(seen.stop, own.stop)),
            "task_il": own,
            "domain_il": own,
        }
        correct = dict.fromkeys(
            self.benchmark.accuracies, torch.zeros((), dtype=torch.int64, device=split.y.device)
        )
        batches = zip(split.x.split(self.batch_size), split.y.split(self.batch_size), strict=True)
        for number, (raw, y) in enumerate(batches, turn):
            if number % self.ranks.size != self.ranks.rank:
                if not self.together:
                    continue
                raw, y = raw[:0], y[:0]
            logits = self.method.predict(self.transform(raw, None))
            for name in correct:
                among = ranges[name]
                choice = logits[:, among.start : among.stop].argmax(1) + among.start
                correct[name] = correct[name] + (choice == y).sum()
        return correct, len(split.y)


def measured(accuracy: dict[str, list[float]], trained: int) -> dict[str, float]:
    """What one evaluation says of the tasks trained so far, by the names that a monitor uses.

    `average_accuracy.<name>` is the mean over them, `accuracy.<name>` that on the last one.
    """
    values: dict[str, float] = {}
    for name, row in accuracy.items():
        seen = row[: trained + 1]
        if seen:
            values[f"average_accuracy.{name}"] = sum(seen) / len(seen)
            values[f"accuracy.{name}"] = seen[-1]
    return values
