"""What is known of a run by one of its accuracies: the view that the metrics of the catalog read.

Plain values; nothing here imports torch. Tasks count from 0, accuracies are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


class Undefined(Exception):  # noqa: N818 (an outcome, which a table shows, rather than an error)
    """A metric has no value for this run; the message says why."""


@dataclass(frozen=True)
class Evaluated:
    """One evaluation on whole test sets.

    Attributes:
        trained: the task last trained, or in training; -1 before any.
        boundary: whether it was made at that task's end.
        accuracy: on tasks 0, 1, …
    """

    trained: int
    boundary: bool
    accuracy: Sequence[float]


@dataclass(frozen=True)
class Probe:
    """One evaluation on small probe sets.

    Attributes:
        task: the task in training.
        batch: how many batches of it were trained on, where that is recorded; None elsewhere.
        boundary: whether the task was at its end.
        accuracy: by task, of those that were probed.
    """

    task: int
    batch: int | None
    boundary: bool
    accuracy: Mapping[int, float]


@dataclass(frozen=True)
class Examples:
    """Predictions on the test sets of the tasks seen, at the end of the last one; arrays [N].

    Attributes:
        correct: whether the class chosen is the label.
        confidence: the probability of the class chosen.
        brier: Σ_c (p_c − [c is the label])² of each example.
    """

    correct: np.ndarray
    confidence: np.ndarray
    brier: np.ndarray


@dataclass(frozen=True)
class Confusions:
    """Which class examples were taken for at the end of a task.

    Attributes:
        counts: (true class, predicted class, how many).
        newest: the classes that the last task brought.
    """

    counts: Sequence[tuple[int, int, int]]
    newest: Collection[int]


@dataclass(frozen=True)
class Measured:
    """A run by one accuracy.

    Attributes:
        accuracy: its name: class_il, task_il, domain_il.
        n_tasks: tasks of the benchmark.
        matrix: rows R[i, 0…i] at the ends of tasks; NaN where nothing was evaluated.
        joint: whether all tasks were trained at once, so that the matrix has one row.
        evaluations: all of them, in order.
        probes: in order; empty where none were made.
        incoming: (correct, all) of batches that were predicted before they were trained on.
        epochs: of the first task.
        is_first: whether `examples` and `confusions`, which are of one accuracy, are of this one.
        examples: None where no raw records were kept.
        confusions: None where nothing was counted.
        baseline: R[k, k] of the run that is compared with; None where there is none.
    """

    accuracy: str
    n_tasks: int
    matrix: Sequence[Sequence[float]]
    joint: bool = False
    evaluations: Sequence[Evaluated] = ()
    probes: Sequence[Probe] = ()
    incoming: Sequence[tuple[int, int]] = ()
    epochs: int = 1
    is_first: bool = True
    examples: Examples | None = None
    confusions: Confusions | None = None
    baseline: Sequence[float] | None = None

    def learned(self) -> list[float]:
        """R[k, k]: accuracy on each task at its end.

        Raises:
            Undefined: a task's end was not evaluated, or all were trained at once.
        """
        self.require_sequence()
        diagonal = [row[k] if k < len(row) else math.nan for k, row in enumerate(self.matrix)]
        if any(map(math.isnan, diagonal)):
            raise Undefined("the ends of some tasks were not evaluated")
        return diagonal

    def require_sequence(self, least: int = 1) -> None:
        """Raises Undefined unless `least` tasks were trained, one after another."""
        if self.joint:
            raise Undefined("all tasks were trained at once")
        if len(self.matrix) < least:
            number = {1: "no task is", 2: "fewer than two tasks are"}[least]
            raise Undefined(f"{number} trained yet")

    def trajectory(self) -> tuple[list[list[float]], list[int]]:
        """Rows of accuracies within and at the ends of tasks, and the task in training at each.

        Of the probes; where there are none, of the evaluations. NaN is "not evaluated".

        Raises:
            Undefined: there is neither a probe nor an evaluation within a task.
        """
        if self.probes:
            return self.probed()
        within = [e for e in self.evaluations if e.trained >= 0]
        if all(e.boundary for e in within):
            raise Undefined(
                "nothing was evaluated within tasks: set evaluation.probe_every, or "
                "training.evaluate_every"
            )
        return [list(e.accuracy[: e.trained + 1]) for e in within], [e.trained for e in within]

    def probed(self) -> tuple[list[list[float]], list[int]]:
        """The same, of the probes alone.

        Raises:
            Undefined: there are none.
        """
        if not self.probes:
            raise Undefined("no probes were made: set evaluation.probe_every")
        rows = [[p.accuracy.get(j, math.nan) for j in range(p.task + 1)] for p in self.probes]
        return rows, [p.task for p in self.probes]
