"""The catalog of continual-learning metrics: name → pure function of what was measured of a run.

Each function's docstring gives the formula and its source in the notation of `functional`: R[i, j]
is the accuracy on task j at the end of task i, T the number of tasks trained. It returns a float,
or raises `Undefined` with the reason. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from perdure.metrics import functional
from perdure.metrics.continual_evaluation import (
    average_anytime_accuracy_of_probes,
    min_accuracy_of_probes,
    stability_gap,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy_of_probes,
)
from perdure.metrics.measured import Examples, Measured, Undefined

Metric = Callable[[Measured], float]

BETA = 10
"""Batches of the learning-curve area."""
N_BINS = 15
"""Bins of the calibration error."""


def average_accuracy(run: Measured) -> float:
    """Mean accuracy on the tasks seen, at the end: 1/T Σ_j R[T, j].

    `ACC` of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    """
    return _found(functional.average_accuracy(run.matrix, _trained(run)), run)


def average_incremental_accuracy(run: Measured) -> float:
    """Mean over the ends of tasks of the average accuracy: 1/T Σ_i 1/i Σ_{j≤i} R[i, j].

    Rebuffi et al. 2017 (iCaRL), of tasks of one size.
    """
    run.require_sequence()
    return _found(functional.average_anytime_accuracy(run.matrix), run)


def average_anytime_accuracy(run: Measured) -> float:
    """Mean over all evaluations, within tasks too, of the mean accuracy on the tasks seen.

    Caccia et al. 2022 (New Insights on Reducing Abrupt Representation Change).
    """
    rows = [e for e in run.evaluations if e.trained >= 0]
    accuracies = [e.accuracy for e in rows]
    return _found(functional.average_anytime_accuracy(accuracies, [e.trained for e in rows]), run)


def forgetting(run: Measured) -> float:
    """Mean drop from the best: 1/(T−1) Σ_{j<T} (max_{j≤l<T} R[l, j] − R[T, j]).

    Chaudhry et al. 2018 (Riemannian Walk).
    """
    run.require_sequence(2)
    return _found(functional.forgetting(run.matrix), run)


def relative_forgetting(run: Measured) -> float:
    """The same drops, each as a share of the best: 1/(T−1) Σ_{j<T} (1 − R[T, j] / max_l R[l, j]).

    Chaudhry et al. 2018 (Riemannian Walk), normalized; a task that was never above 0 leaves it
    undefined.
    """
    forgetting(run)
    *earlier, last = run.matrix
    best = [max(row[j] for row in earlier[j:]) for j in range(len(last) - 1)]
    if 0.0 in best:
        raise Undefined("the best accuracy on a task is 0")
    return math.fsum(1 - last[j] / b for j, b in enumerate(best)) / len(best)


def backward_transfer(run: Measured) -> float:
    """Mean change since a task was learned: 1/(T−1) Σ_{j<T} (R[T, j] − R[j, j]).

    `BWT` of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory).
    """
    run.require_sequence(2)
    return _found(functional.backward_transfer(run.matrix), run)


def forward_transfer(run: Measured) -> float:
    """Mean lead on the next task over an untrained network: 1/(T−1) Σ_{j>1} (R[j−1, j] − b_j).

    `FWT` of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory). Undefined for class-IL, where the
    classes of a task are no possible answer before it is learned.
    """
    run.require_sequence(2)
    if run.accuracy == "class_il":
        raise Undefined("the classes of a task cannot be chosen before it is learned")
    ends = [e for e in run.evaluations if e.boundary and e.trained >= 0]
    initial = [e.accuracy for e in run.evaluations if e.trained < 0]
    rows = [e.accuracy for e in ends]
    value = None
    if initial and rows:
        value = functional.forward_transfer(rows, initial[0], [e.trained for e in ends])
    if value is None:
        raise Undefined("tasks were not evaluated ahead: set training.evaluate_future=true")
    return value


def learning_accuracy(run: Measured) -> float:
    """Mean accuracy on each task at its own end: 1/T Σ_k R[k, k].

    `LA` of Riemer et al. 2019 (Meta-Experience Replay).
    """
    return _mean(run.learned())


def intransigence(run: Measured) -> float:
    """What is not learned that the baseline learns: 1/T Σ_k (a*_k − R[k, k]).

    Chaudhry et al. 2018 (Riemannian Walk), eq. 12, there for one k; a*_k is R[k, k] of a run of
    `model=from-scratch`, which is trained on all data up to task k.
    """
    return _mean([a - r for r, a in zip(run.learned(), _baseline(run), strict=True)])


def plasticity(run: Measured) -> float:
    """What is learned as a share of the baseline's: 1/T Σ_k R[k, k] / a*_k.

    The ratio of the terms of `intransigence`, Chaudhry et al. 2018 (Riemannian Walk).
    """
    best = _baseline(run)
    if 0.0 in best:
        raise Undefined("the baseline's accuracy on a task is 0")
    return _mean([r / a for r, a in zip(run.learned(), best, strict=True)])


def min_accuracy(run: Measured) -> float:
    """Mean over earlier tasks of the lowest accuracy since: 1/(T−1) Σ_{i<T} min_n A(E_i, f_n).

    `min-ACC` of De Lange et al. 2023 (Continual evaluation for lifelong learning), over the
    evaluations on whole test sets.
    """
    run.require_sequence(2)
    rows = [e for e in run.evaluations if e.trained >= 0 and e.accuracy]
    accuracies = [e.accuracy for e in rows]
    return _found(functional.min_accuracy(accuracies, [e.trained for e in rows]), run)


def worst_case_accuracy(run: Measured) -> float:
    """Accuracy on the last task weighed against the worst: 1/T A(E_T, f) + (1 − 1/T) min-ACC.

    `WC-ACC` of De Lange et al. 2023 (Continual evaluation for lifelong learning), over the
    evaluations on whole test sets.
    """
    run.require_sequence()
    rows = [e for e in run.evaluations if e.trained >= 0 and e.accuracy]
    accuracies = [e.accuracy for e in rows]
    return _found(functional.worst_case_accuracy(accuracies, [e.trained for e in rows]), run)


def recency_bias(run: Measured) -> float:
    """Share of the examples of earlier classes that are taken for a class of the newest task.

    P(ŷ ∈ C_T | y ∉ C_T), the bias that Wu et al. 2019 (Large Scale Incremental Learning) correct.
    """
    confusions = run.confusions
    if run.accuracy != "class_il" or not run.is_first:
        raise Undefined("answers are chosen among the classes of the example's own task")
    if run.joint:
        raise Undefined("all tasks were trained at once")
    if confusions is None:
        raise Undefined("the run counted no confusions")
    earlier = [
        (choice, n) for true, choice, n in confusions.counts if true not in confusions.newest
    ]
    total = sum(n for _, n in earlier)
    if not confusions.newest or not total:
        raise Undefined("there are no earlier classes, or no new ones")
    return sum(n for choice, n in earlier if choice in confusions.newest) / total


def expected_calibration_error(run: Measured) -> float:
    """Σ_m |B_m|/n · |acc(B_m) − conf(B_m)| over 15 bins of confidence, at the end.

    `ECE` of Guo et al. 2017 (On calibration of modern neural networks).
    """
    examples = _examples(run)
    confidence = examples.confidence.astype(np.float64)
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    gaps = np.bincount(bins, examples.correct - confidence, N_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(run: Measured) -> float:
    """Mean of Σ_c (p_c − [c is the label])² over the examples, at the end; 0 is best, 2 worst.

    Brier 1950 (Verification of forecasts expressed in terms of probability).
    """
    return float(_examples(run).brier.astype(np.float64).mean())


def learning_curve_area(run: Measured) -> float:
    """Area under the first 10 batches: 1/(β+1) Σ_{b≤β} 1/T Σ_k a_{k,b,k}, β = 10.

    `LCA` of Chaudhry et al. 2019 (A-GEM); a_{k,b,k} is the accuracy on the probe set of task k
    after b of its batches.
    """
    run.require_sequence()
    curves: dict[int, dict[int, float]] = {task: {} for task in range(len(run.matrix))}
    for probe in run.probes:
        if probe.batch is not None and probe.task in curves and probe.task in probe.accuracy:
            curves[probe.task][probe.batch] = probe.accuracy[probe.task]
    wanted = range(BETA + 1)
    if any(b not in curve for curve in curves.values() for b in wanted):
        raise Undefined(
            f"the first {BETA} batches of each task were not probed: set "
            f"evaluation.first_batches={BETA}"
        )
    return _mean([_mean([curve[b] for curve in curves.values()]) for b in wanted])


def prequential_accuracy(run: Measured) -> float:
    """Accuracy on incoming batches, each predicted before it is trained on (test, then train).

    Dawid 1984 (Statistical theory: the prequential approach); of the batches that were sampled, one
    every `evaluation.probe_every` steps. Undefined with several passes over the data.
    """
    if run.joint:
        raise Undefined("all tasks were trained at once")
    if run.epochs != 1:
        raise Undefined("the data are passed over more than once, so they are no online stream")
    total = sum(n for _, n in run.incoming)
    if not total:
        raise Undefined("no incoming batch was predicted: set evaluation.probe_every")
    return sum(correct for correct, _ in run.incoming) / total


def compute(name: str, run: Measured) -> float | Undefined:
    """The value of the metric `name` of the catalog, or why it has none."""
    try:
        return CATALOG[name](run)
    except Undefined as reason:
        return reason


CATALOG: dict[str, Metric] = {
    metric.__name__: metric
    for metric in (
        average_accuracy,
        average_incremental_accuracy,
        average_anytime_accuracy,
        average_anytime_accuracy_of_probes,
        forgetting,
        relative_forgetting,
        backward_transfer,
        forward_transfer,
        learning_accuracy,
        intransigence,
        plasticity,
        stability_gap,
        min_accuracy,
        min_accuracy_of_probes,
        worst_case_accuracy,
        worst_case_accuracy_of_probes,
        windowed_forgetting,
        windowed_plasticity,
        recency_bias,
        expected_calibration_error,
        brier_score,
        learning_curve_area,
        prequential_accuracy,
    )
}
"""By name, in the order in which they are shown."""


def table() -> str:
    """The catalog as a Markdown table: name, formula in words and signs, source and conditions."""
    lines = ["| metric | what | source |", "| --- | --- | --- |"]
    for name, metric in CATALOG.items():
        first, _, rest = (metric.__doc__ or "").partition("\n\n")
        cells = [" ".join(part.split()).replace("|", "\\|") for part in (first, rest)]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _trained(run: Measured) -> list[int] | None:
    return [run.n_tasks - 1] if run.joint and run.matrix else None


def _found(value: float | None, run: Measured) -> float:
    """`value`, or Undefined where the definition gives none."""
    if value is None:
        raise Undefined(
            "the ends of some tasks were not evaluated" if run.matrix else "no task is trained yet"
        )
    return value


def _baseline(run: Measured) -> list[float]:
    """R[k, k] of the baseline, of as many tasks as the run has learned."""
    n = len(run.learned())
    if run.baseline is None:
        raise Undefined("there is no run to compare with: name one of model=from-scratch")
    if len(run.baseline) < n or any(map(math.isnan, run.baseline[:n])):
        raise Undefined("the baseline was not evaluated on all of the tasks")
    return list(run.baseline[:n])


def _examples(run: Measured) -> Examples:
    if not run.is_first:
        raise Undefined("confidence is recorded of the benchmark's first accuracy")
    if run.examples is None or not len(run.examples.correct):
        raise Undefined("the run kept no raw records: set evaluation.records=true")
    return run.examples


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
