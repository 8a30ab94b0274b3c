"""Accuracy matrix of a run as integer counts: correct predictions by evaluation and task.

What a run measures with: plain integers, one state for all metrics, no torchmetrics (whose import
brings matplotlib and SciPy). `perdure.metrics.continual` has the same metrics as torchmetrics.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.metrics.running import Running

_INT = "i"
"""Counts of one evaluation on one task, of 4 bytes: no test set has 2^31 examples."""

Row = list[float | None]


class AccuracyCounts:
    """Counts of every evaluation of a run, and the metrics of them; O(T) work an evaluation.

    An evaluation covers tasks 0, 1, … up to some task; one of no task at all is a task's end at
    which nothing was evaluated, and a row of None in the accuracy matrix.

    Args:
        names: names of the accuracies that are counted: class_il, task_il, domain_il.
        n_tasks: tasks of the benchmark.
    """

    def __init__(self, names: Sequence[str], n_tasks: int) -> None:
        self.names = tuple(names)
        self.n_tasks = n_tasks
        self._evaluations = array(_INT)
        self._total = array(_INT)
        self._correct = {name: array(_INT) for name in self.names}
        self._of = {name: _Accuracies() for name in self.names}

    def __len__(self) -> int:
        """How many evaluations there are."""
        return len(self._evaluations) // 3

    @property
    def n_bytes(self) -> int:
        """Bytes of all counts."""
        parts = (self._evaluations, self._total, *self._correct.values())
        return sum(part.itemsize * len(part) for part in parts)

    def add(
        self,
        correct: Mapping[str, Sequence[int]],
        total: Sequence[int],
        trained: int,
        boundary: bool,
    ) -> dict[str, list[float]]:
        """Add an evaluation; returns the accuracies, by name, in the order of the tasks.

        Args:
            correct: name → number correct on task 0, 1, …
            total: examples of these tasks.
            trained: the task last trained, or in training; -1 before any.
            boundary: whether the evaluation was made at that task's end.

        Raises:
            ValueError: no such task, a task's end that is not after the last one, other names, or
                counts that cannot be.
        """
        if not (-1 <= trained < self.n_tasks and len(total) <= self.n_tasks):
            raise ValueError(f"no task {trained} or {len(total) - 1} among {self.n_tasks} tasks")
        accuracy: dict[str, list[float]] = {}
        for name in self.names:
            pairs = list(zip(correct[name], total, strict=True))
            if not all(0 <= c <= n and n for c, n in pairs):
                raise ValueError(f"{name}: {pairs} cannot be numbers of correct and all answers")
            accuracy[name] = [c / n for c, n in pairs]
            self._of[name].add(accuracy[name], trained, boundary, total)
        self._evaluations.extend((trained, boundary, len(total)))
        self._total.extend(total)
        for name in self.names:
            self._correct[name].extend(correct[name])
        return accuracy

    def matrix(self) -> dict[str, list[Row]]:
        """Name → lower-triangular rows: accuracy on tasks 0..i at the end of each trained task i.

        A joint run has one row, of all tasks. The rows are shared and must not be written to.
        """
        return {name: list(accuracies.rows) for name, accuracies in self._of.items()}

    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Metric → name → value; None where it is not defined (yet)."""
        values: dict[str, dict[str, float | None]] = {}
        for name, accuracies in self._of.items():
            for key, value in accuracies.metrics().items():
                values.setdefault(key, {})[name] = value
        return values

    def state_dict(self) -> dict[str, Any]:
        """All counts: `evaluations` int32 [E, 3] (trained, boundary, tasks), the rest flat."""
        return {
            "evaluations": _tensor(self._evaluations).reshape(-1, 3),
            "total": _tensor(self._total),
            "correct": {name: _tensor(counts) for name, counts in self._correct.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over `state_dict()`, also that of a benchmark of another number of tasks.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: it is no such state.
        """
        if state["correct"].keys() != set(self.names):
            raise ValueError(f"counts of {', '.join(state['correct'])}, not {self.names}")
        new = AccuracyCounts(self.names, self.n_tasks)
        total = state["total"].tolist()
        correct = {name: state["correct"][name].tolist() for name in self.names}
        at = 0
        for trained, boundary, n in state["evaluations"].tolist():
            part = slice(at, at + min(n, self.n_tasks))
            rows = {name: counts[part] for name, counts in correct.items()}
            new.add(rows, total[part], trained, boundary > 0)
            at += n
        if at != len(total):
            raise ValueError(f"{len(total)} counts for {at} evaluated tasks")
        vars(self).update(vars(new))


class _Accuracies:
    """The accuracies of one name: rows of the matrix, and the running metrics."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._last = -1
        self._initial: list[float] = []
        self._ends = Running()
        self._all = Running()

    def add(
        self, accuracy: list[float], trained: int, boundary: bool, total: Sequence[int]
    ) -> None:
        if trained < 0:
            self._initial = accuracy
            return
        if accuracy:
            self._all.add(accuracy, trained)
        if not boundary:
            return
        if trained <= self._last:
            raise ValueError(f"task {trained} ends after task {self._last} did")
        self._last = trained
        self._ends.add(accuracy, trained, total)
        seen = range(trained + 1)
        self.rows.append([accuracy[j] if j < len(accuracy) else None for j in seen])

    def metrics(self) -> dict[str, float | None]:
        return {
            "average_accuracy": self._ends.average_accuracy(),
            "average_accuracy_over_examples": self._ends.average_accuracy_over_examples(),
            "average_anytime_accuracy": self._all.average_anytime_accuracy(),
            "backward_transfer": self._ends.backward_transfer(),
            "forgetting": self._ends.forgetting(),
            "forward_transfer": self._ends.forward_transfer(self._initial),
            "min_accuracy": self._all.min_accuracy(),
            "worst_case_accuracy": self._all.worst_case_accuracy(),
        }


def _tensor(values: array[int]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int32))
