"""Evaluation: accuracy on tasks, class-IL and task-IL from one forward pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.distributed.process_group import Ranks
from perdure.models.base import Method


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
        counts, turn = {}, 0
        for task in tasks:
            counts[task] = self._count_task(task, seen, turn)
            # Batches are dealt out over all tasks, so that short tasks do not all fall to rank 0.
            turn += -(-counts[task][1] // self.batch_size)
        if self.together:
            from perdure.distributed.fsdp import reshard

            reshard(self.method.backbone)
        self.method.train(training)
        return self._sum_over_ranks(counts)

    def _sum_over_ranks(
        self, counts: dict[int, tuple[dict[str, Tensor], int]]
    ) -> dict[int, tuple[dict[str, Tensor], int]]:
        """One all-reduce for all counts; integers, so that their sum is exact in any order."""
        if self.ranks.size == 1 or not counts:
            return counts
        flat = torch.stack([n for correct, _ in counts.values() for n in correct.values()])
        parts = iter(self.ranks.sum_counts(flat))
        return {
            task: ({name: next(parts) for name in correct}, total)
            for task, (correct, total) in counts.items()
        }

    def _count_task(self, task: int, seen: range, turn: int) -> tuple[dict[str, Tensor], int]:
        """This rank's share of a task whose first batch belongs to rank `turn` (mod ranks)."""
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
                # FSDP gathers the parameters in a collective call: every rank runs every batch.
                raw, y = raw[:0], y[:0]
            logits = self.method.predict(self.transform(raw, None))
            for name in correct:
                among = ranges[name]
                choice = logits[:, among.start : among.stop].argmax(1) + among.start
                correct[name] = correct[name] + (choice == y).sum()
        return correct, len(split.y)


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
