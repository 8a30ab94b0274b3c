"""Continual-learning metrics (torchmetrics): accuracy matrix, forgetting, transfer, stability gap.

They count correct predictions per evaluation and task.

All metrics hold the same state, so that in a `ContinualMetrics` collection one update serves all.
The arithmetic is in `perdure.metrics.functional`. Values are CPU float64 tensors; NaN: undefined.

Counts from several ranks are summed. Ranks that each hold the counts of the *whole* test set should
pass `sync_on_compute=False`; if they do not, the values come out the same, at the price of
collective calls (both counts of every fraction are multiplied by the number of ranks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.distributed import gather_all_tensors

from perdure.metrics import functional


class Evaluation(NamedTuple):
    """One evaluation: `accuracy[j]` on the `examples[j]` examples of task j, in [0, 1].

    NaN where task j was not evaluated.
    """

    trained: int
    boundary: bool
    accuracy: list[float]
    examples: list[int]


class ContinualMetric(Metric):
    """The counts behind every metric here; an evaluation is numbered 0, 1, 2, … over the run.

    State, one row an evaluation (rows are added as evaluations arrive): `correct` and `total`
    int64 [E, T], summed over ranks; `trained` int64 [E], the task last trained or in training (-1
    before any training, T - 1 in a joint run) and `boundary` int64 [E], 1 at the end of that task,
    0 within it; on both the ranks agree. Every rank must compute when one does; a rank that had no
    examples of an evaluation may lack its row. `state_dict()` holds it all.
    """

    full_state_update = True
    higher_is_better = True

    correct: Tensor
    total: Tensor
    trained: Tensor
    boundary: Tensor

    def __init__(self, n_tasks: int, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": _gather_rows, **kwargs})
        if n_tasks < 1:
            raise ValueError(f"n_tasks must be at least 1, got {n_tasks}")
        self.n_tasks = n_tasks
        self._own: dict[str, Tensor] = {}
        for name in ("correct", "total"):
            empty = torch.zeros(0, n_tasks, dtype=torch.int64)
            self.add_state(name, empty, dist_reduce_fx="sum", persistent=True)
        for name in ("trained", "boundary"):
            empty = torch.zeros(0, dtype=torch.int64)
            self.add_state(name, empty, dist_reduce_fx="max", persistent=True)

    def update(
        self,
        preds: Tensor,
        target: Tensor,
        *,
        task: int,
        evaluation: int,
        trained: int,
        boundary: bool = True,
    ) -> None:
        """Count a batch of one task's examples; no host sync.

        preds, target: int64 [B], predicted and true classes, on the metric's device.
        """
        self._add((preds == target).sum(), target.numel(), task, evaluation, trained, boundary)

    def add_counts(
        self,
        correct: Tensor | int,
        total: int,
        *,
        task: int,
        evaluation: int,
        trained: int,
        boundary: bool = True,
    ) -> None:
        """`update` for answers already counted, correct: int64 [] on the device; no host sync."""
        self._computed = None
        self._update_count += 1
        with torch.no_grad():
            self._add(correct, total, task, evaluation, trained, boundary)

    def evaluations(self) -> list[Evaluation]:
        """All evaluations in order; a collective call where ranks are synchronized."""
        sync = self.sync_on_compute and not self._is_synced
        with self.sync_context(self.dist_sync_fn, should_sync=sync, should_unsync=sync):
            return self._evaluations()

    def matrix(self) -> list[list[float]]:
        """Lower-triangular rows: at the end of each trained task, the accuracy on tasks 0..it.

        A joint run has one row, of all tasks. A collective call where ranks are synchronized.
        """
        return [e.accuracy[: e.trained + 1] for e in _task_ends(self.evaluations())]

    def share_state_of(self, other: ContinualMetric) -> None:
        """Take over the counts of `other` without a copy; an update of this one makes one."""
        for name, state in other.metric_state.items():
            setattr(self, name, state)
        self._computed = None
        self._update_count = other.update_count

    def _add(
        self,
        correct: Tensor | int,
        total: int,
        task: int,
        evaluation: int,
        trained: int,
        boundary: bool,
    ) -> None:
        if not (0 <= task < self.n_tasks and -1 <= trained < self.n_tasks and evaluation >= 0):
            place = f"task {task}, trained {trained}, evaluation {evaluation}"
            raise ValueError(f"no place for {place} among {self.n_tasks} tasks")
        self._own_rows(max(evaluation + 1, len(self.trained)))
        self.correct[evaluation, task].add_(correct)
        self.total[evaluation, task].add_(total)
        self.trained[evaluation].fill_(trained)
        self.boundary[evaluation].fill_(int(boundary))

    def _own_rows(self, rows: int) -> None:
        """Have so many rows that this metric may write to, copied once an evaluation.

        What somebody else holds too, as a loaded state dict or another metric, is copied first.
        """
        is_own = all(state is self._own.get(name) for name, state in self.metric_state.items())
        if is_own and rows == len(self.trained):
            return
        self._own = {name: _with_rows(getattr(self, name), rows) for name in self.metric_state}
        for name, state in self._own.items():
            setattr(self, name, state)

    def _evaluations(self) -> list[Evaluation]:
        states = (self.correct, self.total, self.trained, self.boundary)
        evaluations = []
        for correct, total, trained, boundary in zip(*(s.tolist() for s in states), strict=True):
            accuracy = [c / n if n else math.nan for c, n in zip(correct, total, strict=True)]
            if any(total):
                evaluations.append(Evaluation(trained, boundary > 0, accuracy, total))
        return evaluations

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load any number of evaluations; report what torchmetrics would ignore in silence."""
        states = {name: state_dict.get(prefix + name) for name in self.metric_state}
        missing_keys += [prefix + name for name, state in states.items() if state is None]
        tasks = {s.shape[1] for s in states.values() if s is not None and s.ndim == 2}
        if tasks - {self.n_tasks}:
            error_msgs.append(f"{prefix}correct and total are of {tasks} tasks, not {self.n_tasks}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name in self.metric_state:
            setattr(self, name, getattr(self, name).to(self.device))
        self._computed = None
        self._update_count = len(self.trained)


class AccuracyMatrix(ContinualMetric):
    """R[i, j]: accuracy on task j at the end of the i-th trained task, future tasks included.

    compute() gives float64 [rows, T], NaN where not evaluated (torchmetrics squeezes [1, 1] to []).
    """

    def compute(self) -> Tensor:
        rows = [e.accuracy for e in _task_ends(self._evaluations())]
        return torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(-1, self.n_tasks)


class AverageAccuracy(ContinualMetric):
    """`functional.average_accuracy` of the accuracy matrix."""

    def compute(self) -> Tensor:
        return _value(functional.average_accuracy, _task_ends(self._evaluations()))


class AverageAccuracyOverExamples(ContinualMetric):
    """`functional.average_accuracy_over_examples` of the accuracy matrix."""

    def compute(self) -> Tensor:
        ends = _task_ends(self._evaluations())
        examples = ends[-1].examples if ends else []
        return _value(functional.average_accuracy_over_examples, ends, examples)


class Forgetting(ContinualMetric):
    """`functional.forgetting` of the accuracy matrix."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return _value(functional.forgetting, _task_ends(self._evaluations()))


class BackwardTransfer(ContinualMetric):
    """`functional.backward_transfer` of the accuracy matrix."""

    def compute(self) -> Tensor:
        return _value(functional.backward_transfer, _task_ends(self._evaluations()))


class ForwardTransfer(ContinualMetric):
    """`functional.forward_transfer`; an evaluation with `trained=-1` is the untrained network's."""

    def compute(self) -> Tensor:
        evaluations = self._evaluations()
        initial = next((e.accuracy for e in reversed(evaluations) if e.trained < 0), [])
        return _value(functional.forward_transfer, _task_ends(evaluations), initial)


class AverageAnytimeAccuracy(ContinualMetric):
    """`functional.average_anytime_accuracy` of all evaluations since training began."""

    def compute(self) -> Tensor:
        return _value(functional.average_anytime_accuracy, self._evaluations())


class MinAccuracy(ContinualMetric):
    """`functional.min_accuracy` of all evaluations since training began."""

    def compute(self) -> Tensor:
        return _value(functional.min_accuracy, self._evaluations())


class WorstCaseAccuracy(ContinualMetric):
    """`functional.worst_case_accuracy` of all evaluations since training began."""

    def compute(self) -> Tensor:
        return _value(functional.worst_case_accuracy, self._evaluations())


class ContinualMetrics(MetricCollection):
    """All metrics of this module over one shared state, by their names in snake case."""

    def __init__(self, n_tasks: int, **kwargs: Any) -> None:
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy_matrix": AccuracyMatrix(n_tasks, **kwargs),
            "average_accuracy": AverageAccuracy(n_tasks, **kwargs),
            "average_accuracy_over_examples": AverageAccuracyOverExamples(n_tasks, **kwargs),
            "forgetting": Forgetting(n_tasks, **kwargs),
            "backward_transfer": BackwardTransfer(n_tasks, **kwargs),
            "forward_transfer": ForwardTransfer(n_tasks, **kwargs),
            "average_anytime_accuracy": AverageAnytimeAccuracy(n_tasks, **kwargs),
            "min_accuracy": MinAccuracy(n_tasks, **kwargs),
            "worst_case_accuracy": WorstCaseAccuracy(n_tasks, **kwargs),
        }
        super().__init__(metrics, compute_groups=[list(metrics)])

    def add_counts(self, correct: Tensor | int, total: int, **where: Any) -> None:
        """`ContinualMetric.add_counts`, once for all metrics."""
        first, *others = self._members()
        first.add_counts(correct, total, **where)
        for metric in others:
            metric.share_state_of(first)

    def evaluations(self) -> list[Evaluation]:
        """`ContinualMetric.evaluations` of the shared state."""
        return self._members()[0].evaluations()

    def matrix(self) -> list[list[float]]:
        """`ContinualMetric.matrix` of the shared state."""
        return self._members()[0].matrix()

    def _members(self) -> list[ContinualMetric]:
        return [m for m in self.values(copy_state=False) if isinstance(m, ContinualMetric)]


def _task_ends(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The rows of the accuracy matrix in task order; of a task evaluated twice, the later."""
    ends = {e.trained: e for e in evaluations if e.boundary and e.trained >= 0}
    return [ends[task] for task in sorted(ends)]


def _value(
    function: Callable[..., float | None], evaluations: Sequence[Evaluation], *more: Sequence[float]
) -> Tensor:
    """`function` of the evaluations since training began."""
    evaluations = [e for e in evaluations if e.trained >= 0]
    trained = [e.trained for e in evaluations]
    value = function([e.accuracy for e in evaluations], *more, trained=trained)
    value = math.nan if value is None else value
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _with_rows(state: Tensor, rows: int) -> Tensor:
    """A fresh copy of [E, …] with rows to spare: 0 in counts, -1 (below every value) in markers."""
    spare = rows - len(state)
    return pad(state, (0, 0, 0, spare)) if state.ndim == 2 else pad(state, (0, spare), value=-1)


def _gather_rows(state: Tensor, group: Any = None) -> list[Tensor]:
    """The state of every rank with equally many rows, as torchmetrics must stack them."""
    states = gather_all_tensors(state, group)
    rows = max(map(len, states))
    return [_with_rows(s, rows) for s in states]
