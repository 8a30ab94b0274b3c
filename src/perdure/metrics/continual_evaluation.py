"""Metrics of what happens within tasks: stability gap, windowed forgetting and plasticity, min-ACC.

De Lange et al. 2023, "Continual evaluation for lifelong learning: identifying the stability gap".
They are computed from the probes of a run, where it has any: small samples, whose noise lowers a
minimum and raises a maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from perdure.metrics import functional
from perdure.metrics.measured import Measured, Undefined

WINDOW = 10
"""Consecutive evaluations of a task within which a change counts."""


def stability_gap(run: Measured) -> float:
    """Mean transient drop of earlier tasks while another one is trained.

    1/|P| Σ_{(k,i)∈P} max(0, min(A(E_i, f_{k−1}), A(E_i, f_k)) − min_{n in k} A(E_i, f_n)) over the
    pairs P of a task k and an earlier one i, f_k the network at the end of task k: the gap of De
    Lange et al. 2023 (Continual evaluation for lifelong learning), as the depth that is recovered
    by the task's end.
    """
    run.require_sequence(2)
    rows, trained = run.trajectory()
    ends = _ends(run, rows, trained)
    drops = []
    for k in range(1, max(trained) + 1):
        within = [row for row, task in zip(rows, trained, strict=True) if task == k]
        for i in range(k):
            seen = [row[i] for row in within if not _absent(row, i)]
            if k - 1 not in ends or k not in ends or not seen:
                raise Undefined("some tasks were not evaluated within and at the end of others")
            drops.append(max(0.0, min(ends[k - 1][i], ends[k][i]) - min(seen)))
    return math.fsum(drops) / len(drops)


def windowed_forgetting(run: Measured) -> float:
    """Mean over tasks of the greatest drop within 10 evaluations.

    1/T Σ_i max_{m<n<m+10} (A(E_i, f_m) − A(E_i, f_n)): `WF` of De Lange et al. 2023 (Continual
    evaluation for lifelong learning), over consecutive probes of the task or, where there are none,
    evaluations.
    """
    return _windowed(run, lambda before, after: before - after)


def windowed_plasticity(run: Measured) -> float:
    """Mean over tasks of the greatest rise within 10 evaluations.

    1/T Σ_i max_{m<n<m+10} (A(E_i, f_n) − A(E_i, f_m)): `WP` of De Lange et al. 2023 (Continual
    evaluation for lifelong learning), as `windowed_forgetting`.
    """
    return _windowed(run, lambda before, after: after - before)


def min_accuracy_of_probes(run: Measured) -> float:
    """The same as `min_accuracy`, over the probes.

    `min-ACC` of De Lange et al. 2023 (Continual evaluation for lifelong learning).
    """
    run.require_sequence(2)
    return _of_probes(run, functional.min_accuracy)


def worst_case_accuracy_of_probes(run: Measured) -> float:
    """The same as `worst_case_accuracy`, over the probes.

    `WC-ACC` of De Lange et al. 2023 (Continual evaluation for lifelong learning).
    """
    run.require_sequence()
    return _of_probes(run, functional.worst_case_accuracy)


def average_anytime_accuracy_of_probes(run: Measured) -> float:
    """The same as `average_anytime_accuracy`, over the probes of every n-th step.

    Caccia et al. 2022 (New Insights on Reducing Abrupt Representation Change).
    """
    run.require_sequence()
    regular = [p for p in run.probes if p.batch is None and not p.boundary]
    rows = [[p.accuracy.get(j, math.nan) for j in range(p.task + 1)] for p in regular]
    value = functional.average_anytime_accuracy(rows, [p.task for p in regular])
    if value is None:
        raise Undefined("no probes were made at regular steps: set evaluation.probe_every")
    return value


def _windowed(run: Measured, change: Callable[[float, float], float]) -> float:
    run.require_sequence()
    rows, _ = run.trajectory()
    greatest = []
    for task in range(len(run.matrix)):
        values = [row[task] for row in rows if not _absent(row, task)]
        if len(values) < 2:
            raise Undefined("some tasks were evaluated less than twice")
        greatest.append(
            max(
                change(values[m], values[n])
                for n in range(1, len(values))
                for m in range(max(0, n - WINDOW + 1), n)
            )
        )
    return math.fsum(greatest) / len(greatest)


def _of_probes(run: Measured, metric: Callable[..., float | None]) -> float:
    value = metric(*run.probed())
    if value is None:
        raise Undefined("the probes do not cover all tasks")
    return value


def _ends(run: Measured, rows: list[list[float]], trained: list[int]) -> dict[int, list[float]]:
    """Task → the row at its end, of the same trajectory."""
    points: Sequence[bool]
    if run.probes:
        points = [p.boundary for p in run.probes]
    else:
        points = [e.boundary for e in run.evaluations if e.trained >= 0]
    return {
        task: row
        for row, task, is_end in zip(rows, trained, points, strict=True)
        if is_end and not any(_absent(row, j) for j in range(task + 1))
    }


def _absent(row: Sequence[float], task: int) -> bool:
    return task >= len(row) or math.isnan(row[task])
