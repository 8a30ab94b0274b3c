"""The content of results.json: accuracy matrix, forgetting, … as plain values, and run facts."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from perdure.metrics.continual import ContinualMetrics

_MATRIX = "accuracy_matrix"


class Results:
    """Accuracy counts by scenario name, and the facts of the run.

    Args:
        accuracies: names of the accuracies measured: class_il, task_il, domain_il.
        n_tasks: tasks of the benchmark.
        facts: known from the start: model, dataset, seed, …
    """

    def __init__(self, accuracies: tuple[str, ...], n_tasks: int, facts: dict[str, Any]) -> None:
        self.metrics = {
            name: ContinualMetrics(n_tasks, sync_on_compute=False) for name in accuracies
        }
        self.facts = dict(facts)
        self.status = "running"
        self.evaluations = 0

    def add(
        self, counts: dict[int, tuple[dict[str, Tensor], int]], trained: int, boundary: bool
    ) -> dict[str, list[float]]:
        """Add one evaluation; returns the accuracies, by name, in the order of the tasks.

        Here the host waits for the device, once for all tasks: `int(n)` of the first count waits
        for the whole evaluation, and the others are there by then.

        Args:
            counts: task → (name → number correct, number of examples).
            trained: the task last trained, -1 before any.
            boundary: whether the evaluation was made at that task's end.
        """
        accuracy: dict[str, list[float]] = {name: [] for name in self.metrics}
        for task, (correct, total) in sorted(counts.items()):
            for name, n in correct.items():
                n_correct = int(n)
                self.metrics[name].add_counts(
                    n_correct,
                    total,
                    task=task,
                    evaluation=self.evaluations,
                    trained=trained,
                    boundary=boundary,
                )
                accuracy[name].append(n_correct / total)
        self.evaluations += 1
        return accuracy

    def summary(self, **now: Any) -> dict[str, Any]:
        """The content of results.json; None for a metric that is not defined (yet)."""
        values: dict[str, dict[str, float | None]] = {}
        for name, metrics in self.metrics.items():
            computed = metrics.compute() if self.evaluations else dict.fromkeys(metrics, math.nan)
            for key, value in computed.items():
                if key != _MATRIX:
                    number = float(value)
                    values.setdefault(str(key), {})[name] = None if math.isnan(number) else number
        matrix = {name: metrics.matrix() for name, metrics in self.metrics.items()}
        return {**self.facts, "status": self.status, _MATRIX: matrix, **values, **now}

    def state_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "metrics": {name: dict(m.state_dict()) for name, m in self.metrics.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.evaluations = state["evaluations"]
        for name, metrics in self.metrics.items():
            metrics.load_state_dict(state["metrics"][name])
