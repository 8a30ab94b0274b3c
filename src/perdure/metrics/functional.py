"""Average accuracy, forgetting, backward and forward transfer, … of an accuracy matrix.

Pure functions of plain numbers.

Every function takes rows of accuracies in [0, 1] (lists of lists, or a tensor) in the order of the
evaluations: `row[j]` is the accuracy on task j. `trained[n]` is the task last trained, or in
training, when row n was made; by default row i was made at the end of task i, which is the accuracy
matrix R[i, j]. A joint run over T tasks has one row, with `trained=[T - 1]`. Tasks count from 0,
"seen" tasks are 0..trained, and entries on unseen tasks are read by `forward_transfer` only. NaN
(or a row too short) stands for "not evaluated". An undefined value is None, never 0 or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    Matrix: TypeAlias = Sequence[Sequence[float]] | Tensor


def average_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean accuracy on the seen tasks in the last row.

    A_k = 1/k Σ_{j≤k} a_{k,j}; `ACC` of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    """
    rows, trained = _rows(matrix, trained)
    if not rows:
        return None
    return _mean([_at(rows[-1], j) for j in range(trained[-1] + 1)])


def forgetting(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean drop from the best earlier accuracy on each task but the last one; may be negative.

    F_k = 1/(k-1) Σ_{j<k} f_j^k with f_j^k = max_{l<k} a_{l,j} - a_{k,j}, where a_{l,j} is defined
    for j ≤ l only, so that accuracy on a task not yet learned never counts: Chaudhry et al. 2018
    (Riemannian Walk). None with fewer than two tasks.
    """
    rows, trained = _rows(matrix, trained)
    if not rows:
        return None
    drops = []
    for j in range(trained[-1]):
        earlier = [_at(row, j) for row, t in zip(rows[:-1], trained[:-1], strict=True) if t >= j]
        if not earlier or any(map(math.isnan, earlier)):
            return None
        drops.append(max(earlier) - _at(rows[-1], j))
    return _mean(drops)


def backward_transfer(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean change on each task but the last one since it was learned.

    BWT = 1/(T-1) Σ_{i<T} (R_{T,i} - R_{i,i}): Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    None with fewer than two tasks.
    """
    rows, trained = _rows(matrix, trained)
    if not rows:
        return None
    after = dict(zip(trained, rows, strict=True))
    return _mean([_at(rows[-1], i) - _at(after.get(i, ()), i) for i in range(trained[-1])])


def forward_transfer(
    matrix: Matrix, initial: Sequence[float], trained: Sequence[int] | None = None
) -> float | None:
    """Mean lead over an untrained network on each task but the first, just before it is learned.

    FWT = 1/(T-1) Σ_{i>1} (R_{i-1,i} - b_i), with `initial[i]` = b_i, the accuracy of the untrained
    network on task i: Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory). T counts the tasks
    trained so far. None with fewer than two tasks, or where unseen tasks were not evaluated.
    """
    rows, trained = _rows(matrix, trained)
    if not rows:
        return None
    after = dict(zip(trained, rows, strict=True))
    return _mean(
        [_at(after.get(i - 1, ()), i) - _at(initial, i) for i in range(1, trained[-1] + 1)]
    )


def average_anytime_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean over all evaluations, within and at the end of tasks, of the accuracy on seen tasks.

    AAA_t = 1/t Σ_{n≤t} 1/k_n Σ_{i≤k_n} A(E_i, f_n), k_n tasks seen at evaluation n: Caccia et al.
    2022 (New Insights on Reducing Abrupt Representation Change), eq. 3 of Soutif-Cormerais et al.
    2023 (A Comprehensive Empirical Evaluation on Online Continual Learning). With evaluations at
    task ends only, of tasks of one size, it is the average incremental accuracy of iCaRL (2017).
    """
    rows, trained = _rows(matrix, trained)
    seen = [
        _mean([_at(row, j) for j in range(t + 1)]) for row, t in zip(rows, trained, strict=True)
    ]
    return _mean([math.nan if value is None else value for value in seen])


def min_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean over the earlier tasks of the lowest accuracy each one fell to after it was learned.

    min-ACC_{T_k} = 1/(k-1) Σ_{i<k} min_n A(E_i, f_n), n running over the evaluations made strictly
    after task i was learned, up to now (so the one at the end of task i is left out): De Lange et
    al. 2023 (Continual evaluation for lifelong learning: identifying the stability gap). None with
    fewer than two tasks, or where they were not learned one after another.
    """
    rows, trained = _rows(matrix, trained)
    if not rows or any(i not in trained for i in range(trained[-1])):
        return None
    lowest = []
    for i in range(trained[-1]):
        later = [_at(row, i) for row, t in zip(rows, trained, strict=True) if t > i]
        lowest.append(min((a for a in later if not math.isnan(a)), default=math.nan))
    return _mean(lowest)


def worst_case_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Accuracy on the current task weighed against the worst that earlier tasks went through.

    WC-ACC_t = 1/k A(E_k, f_t) + (1 - 1/k) min-ACC_{T_k}, t the last evaluation and k its task:
    De Lange et al. 2023 (see `min_accuracy`).
    """
    rows, trained = _rows(matrix, trained)
    if not rows:
        return None
    current = _at(rows[-1], trained[-1])
    worst = min_accuracy(rows, trained) if trained[-1] > 0 else 0.0
    if worst is None or math.isnan(current):
        return None
    share = 1 / (trained[-1] + 1)
    return share * current + (1 - share) * worst


def _rows(
    matrix: Matrix, trained: Sequence[int] | None
) -> tuple[Sequence[Sequence[float]], Sequence[int]]:
    """The rows as sequences of floats, each with the task it was made after (never -1)."""
    rows = matrix if isinstance(matrix, Sequence) else matrix.tolist()
    trained = range(len(rows)) if trained is None else trained
    if len(trained) != len(rows) or any(t < 0 for t in trained):
        raise ValueError(f"trained must name one task >= 0 for each of {len(rows)} rows: {trained}")
    return rows, trained


def _at(row: Sequence[float], task: int) -> float:
    return float(row[task]) if task < len(row) else math.nan


def _mean(values: Sequence[float]) -> float | None:
    """Correctly rounded, so that the order of tasks or evaluations cannot change a bit."""
    if not values or any(map(math.isnan, values)):
        return None
    return math.fsum(values) / len(values)
