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

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from perdure.metrics.running import Running

if TYPE_CHECKING:
    from torch import Tensor

    Matrix: TypeAlias = Sequence[Sequence[float]] | Tensor


def average_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean accuracy on the seen tasks in the last row.

    A_k = 1/k Σ_{j≤k} a_{k,j}; `ACC` of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    """
    return _running(matrix, trained).average_accuracy()


def average_accuracy_over_examples(
    matrix: Matrix, examples: Sequence[int], trained: Sequence[int] | None = None
) -> float | None:
    """Accuracy on the examples of all seen tasks in the last row: tasks weighted by their size.

    Σ_{j≤k} n_j a_{k,j} / Σ_{j≤k} n_j, with `examples[j]` = n_j, how many task j is measured on. The
    average accuracy counts every task alike; where tasks are of one size both are the same.
    """
    return _running(matrix, trained, examples).average_accuracy_over_examples()


def forgetting(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean drop from the best earlier accuracy on each task but the last one; may be negative.

    F_k = 1/(k-1) Σ_{j<k} f_j^k with f_j^k = max_{l<k} a_{l,j} - a_{k,j}, where a_{l,j} is defined
    for j ≤ l only, so that accuracy on a task not yet learned never counts: Chaudhry et al. 2018
    (Riemannian Walk). None with fewer than two tasks.
    """
    return _running(matrix, trained).forgetting()


def backward_transfer(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean change on each task but the last one since it was learned.

    BWT = 1/(T-1) Σ_{i<T} (R_{T,i} - R_{i,i}): Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    None with fewer than two tasks.
    """
    return _running(matrix, trained).backward_transfer()


def forward_transfer(
    matrix: Matrix, initial: Sequence[float], trained: Sequence[int] | None = None
) -> float | None:
    """Mean lead over an untrained network on each task but the first, just before it is learned.

    FWT = 1/(T-1) Σ_{i>1} (R_{i-1,i} - b_i), with `initial[i]` = b_i, the accuracy of the untrained
    network on task i: Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory). T counts the tasks
    trained so far. None with fewer than two tasks, or where unseen tasks were not evaluated.
    """
    return _running(matrix, trained).forward_transfer(initial)


def average_anytime_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean over all evaluations, within and at the end of tasks, of the accuracy on seen tasks.

    AAA_t = 1/t Σ_{n≤t} 1/k_n Σ_{i≤k_n} A(E_i, f_n), k_n tasks seen at evaluation n: Caccia et al.
    2022 (New Insights on Reducing Abrupt Representation Change), eq. 3 of Soutif-Cormerais et al.
    2023 (A Comprehensive Empirical Evaluation on Online Continual Learning). With evaluations at
    task ends only, of tasks of one size, it is the average incremental accuracy of iCaRL (2017).
    """
    return _running(matrix, trained).average_anytime_accuracy()


def min_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Mean over the earlier tasks of the lowest accuracy each one fell to after it was learned.

    min-ACC_{T_k} = 1/(k-1) Σ_{i<k} min_n A(E_i, f_n), n running over the evaluations made strictly
    after task i was learned, up to now (so the one at the end of task i is left out): De Lange et
    al. 2023 (Continual evaluation for lifelong learning: identifying the stability gap). None with
    fewer than two tasks, or where they were not learned one after another.
    """
    return _running(matrix, trained).min_accuracy()


def worst_case_accuracy(matrix: Matrix, trained: Sequence[int] | None = None) -> float | None:
    """Accuracy on the current task weighed against the worst that earlier tasks went through.

    WC-ACC_t = 1/k A(E_k, f_t) + (1 - 1/k) min-ACC_{T_k}, t the last evaluation and k its task:
    De Lange et al. 2023 (see `min_accuracy`).
    """
    return _running(matrix, trained).worst_case_accuracy()


def _running(
    matrix: Matrix, trained: Sequence[int] | None, examples: Sequence[int] = ()
) -> Running:
    """All rows of floats taken in, each with the task it was made after (never -1)."""
    rows = matrix if isinstance(matrix, Sequence) else matrix.tolist()
    trained = range(len(rows)) if trained is None else trained
    if len(trained) != len(rows) or any(t < 0 for t in trained):
        raise ValueError(f"trained must name one task >= 0 for each of {len(rows)} rows: {trained}")
    running = Running()
    for row, task in zip(rows, trained, strict=True):
        running.add(row, task, examples)
    return running
