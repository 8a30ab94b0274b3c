"""Running (online, incremental) continual-learning metrics: O(tasks) work an evaluation.

What the sums, maxima and minima of `perdure.metrics.functional` need, kept up to date row by row,
so that neither an evaluation nor a metric reads an earlier row again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_NONE = -math.inf
"""The best of no accuracies."""


class Running:
    """The metrics of the rows added so far; `functional` defines each, under the same name.

    A row holds accuracies in [0, 1] on task 0, 1, …; NaN, or a row too short, is "not evaluated".
    An undefined value is None. Each call reads O(T) numbers, T tasks seen.
    """

    def __init__(self) -> None:
        self._row: Sequence[float] = ()
        self._examples: Sequence[int] = ()
        self._trained = -1
        self._best: list[float] = []
        self._lowest: list[float] = []
        self._learned: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._means: list[float] = []

    def add(self, row: Sequence[float], trained: int, examples: Sequence[int] = ()) -> None:
        """Take in an evaluation's `row`, made after (or within) task `trained`.

        `examples[j]` is how many examples of task j were evaluated, where that is known.
        """
        self._fold_last()
        self._row, self._trained, self._examples = row, trained, examples
        self._learned[trained] = at(row, trained)
        self._before[trained + 1] = at(row, trained + 1)
        mean_seen = mean([at(row, j) for j in range(trained + 1)])
        self._means.append(math.nan if mean_seen is None else mean_seen)
        _grow(self._lowest, trained, math.inf)
        for j in range(trained):
            if at(row, j) < self._lowest[j]:  # never so of NaN
                self._lowest[j] = row[j]

    def average_accuracy(self) -> float | None:
        """Mean accuracy on the seen tasks in the last row."""
        return mean([at(self._row, j) for j in range(self._trained + 1)])

    def average_accuracy_over_examples(self) -> float | None:
        """Accuracy on the examples of all seen tasks in the last row, each counted once."""
        seen = range(self._trained + 1)
        if len(self._examples) < len(seen) or not sum(self._examples[: len(seen)]):
            return None
        correct = [at(self._row, j) * self._examples[j] for j in seen]
        if any(map(math.isnan, correct)):
            return None
        return math.fsum(correct) / sum(self._examples[: len(seen)])

    def forgetting(self) -> float | None:
        """Mean drop from the best earlier accuracy on each task but the last one."""
        _grow(self._best, self._trained, _NONE)
        best = self._best[: max(self._trained, 0)]
        if _NONE in best:
            return None
        return mean([b - at(self._row, j) for j, b in enumerate(best)])

    def backward_transfer(self) -> float | None:
        """Mean change on each task but the last one since it was learned."""
        earlier = range(self._trained)
        return mean([at(self._row, i) - self._learned.get(i, math.nan) for i in earlier])

    def forward_transfer(self, initial: Sequence[float]) -> float | None:
        """Mean lead over an untrained network on each task but the first, before it is learned."""
        later = range(1, self._trained + 1)
        return mean([self._before.get(i, math.nan) - at(initial, i) for i in later])

    def average_anytime_accuracy(self) -> float | None:
        """Mean over all rows of the mean accuracy on the tasks seen."""
        return mean(self._means)

    def min_accuracy(self) -> float | None:
        """Mean over the earlier tasks of the lowest accuracy after each was learned."""
        earlier = range(self._trained)
        if any(i not in self._learned for i in earlier):
            return None
        lowest = [self._lowest[i] for i in earlier]
        return None if math.inf in lowest else mean(lowest)

    def worst_case_accuracy(self) -> float | None:
        """Accuracy on the current task weighed against the worst that earlier ones went through."""
        if self._trained < 0:
            return None
        current = at(self._row, self._trained)
        worst = self.min_accuracy() if self._trained > 0 else 0.0
        if worst is None or math.isnan(current):
            return None
        share = 1 / (self._trained + 1)
        return share * current + (1 - share) * worst

    def _fold_last(self) -> None:
        """The last row becomes an earlier one; NaN once is NaN for good."""
        _grow(self._best, self._trained + 1, _NONE)
        for j in range(self._trained + 1):
            new, best = at(self._row, j), self._best[j]
            self._best[j] = new if new > best else best if best >= new else math.nan


def at(row: Sequence[float], task: int) -> float:
    """The accuracy on `task`; NaN where the row does not reach."""
    return float(row[task]) if task < len(row) else math.nan


def mean(values: Sequence[float]) -> float | None:
    """Correctly rounded, so that the order of tasks or evaluations cannot change a bit."""
    if not values or any(map(math.isnan, values)):
        return None
    return math.fsum(values) / len(values)


def _grow(values: list[float], n: int, filler: float) -> None:
    values.extend([filler] * (n - len(values)))
