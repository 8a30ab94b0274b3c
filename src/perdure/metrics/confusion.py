"""Confusion matrix and per-class accuracy as plain values, for results.json and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOST_DENSE = 200
"""Classes up to which the counts are written as a matrix; 200 make about 120 kB of JSON."""


class Confusion:
    """How often each class was taken for which, in one evaluation at the end of a task.

    Attributes:
        counts: int64 [C, C] on the CPU, `counts[true, predicted]`.
        names: of the classes, in the order of the counts.
        after_task: the task at whose end they were counted.
    """

    def __init__(self, counts: Tensor, names: Sequence[str], after_task: int) -> None:
        n = len(names)
        if counts.shape != (n, n):
            raise ValueError(f"counts of shape {list(counts.shape)} for {n} classes")
        self.counts = counts
        self.names = tuple(map(str, names))
        self.after_task = int(after_task)

    def per_class_accuracy(self) -> dict[str, float]:
        """Class → part of its examples that were recognized; without those that have none.

        Classes are called by their names, or by their numbers where two share a name.
        """
        names = self.names if len(set(self.names)) == len(self.names) else map(str, self._range())
        correct, total = self.counts.diagonal().tolist(), self.counts.sum(1).tolist()
        return {name: c / n for name, c, n in zip(names, correct, total, strict=True) if n}

    def as_json(self) -> dict[str, Any]:
        """What results.json holds: `counts` as a matrix, or `nonzero` triples for many classes."""
        about = {"after_task": self.after_task, "classes": list(self.names)}
        if len(self.names) <= MOST_DENSE:
            return {**about, "counts": self.counts.tolist()}
        return {**about, "nonzero": _triples(self.counts).tolist()}

    def state_dict(self) -> dict[str, Any]:
        """The counts that are not 0, int32 [n, 3]: true class, predicted class, count."""
        return {
            "nonzero": _triples(self.counts),
            "classes": list(self.names),
            "after_task": self.after_task,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Confusion:
        """The one whose `state_dict()` it is.

        Raises:
            KeyError, ValueError, TypeError, IndexError, AttributeError: it is no such state.
        """
        n = len(state["classes"])
        rows = state["nonzero"].to(torch.int64)
        if len(rows) and not (int(rows[:, :2].min()) >= 0 and int(rows[:, :2].max()) < n):
            raise ValueError(f"counts of classes beyond the {n} that are named")
        counts = torch.zeros(n, n, dtype=torch.int64)
        counts[rows[:, 0], rows[:, 1]] = rows[:, 2]
        return cls(counts, state["classes"], state["after_task"])

    def _range(self) -> range:
        return range(len(self.names))


def _triples(counts: Tensor) -> Tensor:
    places = counts.nonzero()
    values = counts[places[:, 0], places[:, 1]]
    return torch.cat([places, values[:, None]], 1).to(torch.int32)
