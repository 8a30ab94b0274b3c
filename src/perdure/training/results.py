"""The content of results.json: accuracy matrix, forgetting, … as plain values, and run facts."""

from __future__ import annotations

from typing import Any

from perdure.metrics.confusion import Confusion
from perdure.metrics.counts import AccuracyCounts
from perdure.training.evaluation import Counts

PER_CLASS = ("per_class_accuracy", "confusion", "buffer_classes")
"""Entries of results.json that tell classes apart."""


class Results:
    """Accuracy counts by scenario name, and the facts of the run.

    Args:
        accuracies: names of the accuracies measured: class_il, task_il, domain_il.
        n_tasks: tasks of the benchmark.
        facts: known from the start: model, dataset, seed, …
        known: names of the accuracies that the benchmark has; those that are not measured, since
            they are not defined for the method, have None in every metric.

    Attributes:
        counts: all evaluations.
        confusion: of the newest evaluation at a task's end.
        held: task → how many examples of each class the buffer held at its end.
    """

    def __init__(
        self,
        accuracies: tuple[str, ...],
        n_tasks: int,
        facts: dict[str, Any],
        known: tuple[str, ...] = (),
    ) -> None:
        self.counts = AccuracyCounts(accuracies, n_tasks)
        self.confusion: Confusion | None = None
        self.held: dict[int, list[int]] = {}
        self.known = known or accuracies
        self.facts = dict(facts)
        self.status = "running"

    def add(self, counted: Counts, trained: int, boundary: bool) -> dict[str, list[float]]:
        """Add one evaluation; returns the accuracies, by name, in the order of the tasks.

        Here the host waits for the device, once for all counts.

        Args:
            counted: the counts of the tasks from 0 on.
            trained: the task last trained, -1 before any.
            boundary: whether the evaluation was made at that task's end.
        """
        counted = counted.on_host()
        if counted.confusion is not None:
            self.confusion = Confusion(counted.confusion, counted.classes, trained)
        correct = {name: n.tolist() for name, n in counted.correct.items()}
        return self.counts.add(correct, counted.total, trained, boundary)

    def skip(self, trained: int) -> None:
        """Note that `trained` has ended without an evaluation: a row of None in the matrix."""
        self.counts.add(dict.fromkeys(self.counts.names, ()), (), trained, True)

    @property
    def n_classes(self) -> int:
        """Classes of the whole benchmark."""
        return len(self.facts.get("class_names") or ())

    def summary(self, **now: Any) -> dict[str, Any]:
        """The content of results.json; None for a metric that is not defined (yet)."""
        confusion = self.confusion
        return {
            **self.facts,
            "status": self.status,
            "accuracy_matrix": self.counts.matrix(),
            **{
                metric: {name: values.get(name) for name in self.known}
                for metric, values in self.counts.metrics().items()
            },
            "per_class_accuracy": None if confusion is None else confusion.per_class_accuracy(),
            "confusion": None if confusion is None else confusion.as_json(),
            # A row a task; None of tasks that an earlier version trained, which did not count.
            "buffer_classes": [self.held.get(task) for task in range(max(self.held) + 1)]
            if self.held
            else None,
            **now,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "counts": self.counts.state_dict(),
            "confusion": None if self.confusion is None else self.confusion.state_dict(),
            "held": {str(task): list(counts) for task, counts in self.held.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.load_state_dict(state["counts"])
        confusion = state["confusion"]
        self.confusion = None if confusion is None else Confusion.of_state(confusion)
        held = state.get("held", {})  # earlier versions did not count
        self.held = {int(task): [int(n) for n in counts] for task, counts in held.items()}
