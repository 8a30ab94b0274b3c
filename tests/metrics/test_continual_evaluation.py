"""Metrics of what happens within tasks, by hand, of probes and of evaluations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.metrics.catalog import compute
from perdure.metrics.measured import Evaluated, Measured, Probe, Undefined

MATRIX = [[0.9], [0.6, 0.8]]
PROBES = [
    Probe(0, 0, False, {0: 0.1}),
    Probe(0, None, False, {0: 0.7}),
    Probe(0, None, True, {0: 0.9}),
    Probe(1, 0, False, {1: 0.0}),
    Probe(1, 1, False, {0: 0.2, 1: 0.3}),
    Probe(1, None, False, {0: 0.5, 1: 0.9}),
    Probe(1, None, True, {0: 0.6, 1: 0.8}),
]
RUN = Measured("class_il", 2, MATRIX, probes=PROBES)

BY_HAND = {
    # Task 0 falls to 0.2, and is at 0.9 and 0.6 at the ends: the lower of these counts.
    "stability_gap": 0.6 - 0.2,
    "windowed_forgetting": ((0.9 - 0.2) + (0.9 - 0.8)) / 2,
    "windowed_plasticity": ((0.9 - 0.1) + (0.9 - 0.0)) / 2,
    "min_accuracy_of_probes": 0.2,
    "worst_case_accuracy_of_probes": 0.8 / 2 + 0.2 / 2,
    "average_anytime_accuracy_of_probes": (0.7 + (0.5 + 0.9) / 2) / 2,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_of_probes(name: str) -> None:
    assert compute(name, RUN) == pytest.approx(BY_HAND[name])


def as_evaluations(run: Measured) -> Measured:
    rows = [
        Evaluated(p.task, p.boundary, [p.accuracy[j] for j in range(p.task + 1)])
        for p in run.probes
        if len(p.accuracy) == p.task + 1
    ]
    return replace(run, probes=(), evaluations=rows)


def test_of_evaluations_where_there_are_no_probes() -> None:
    run = as_evaluations(RUN)
    assert compute("stability_gap", run) == pytest.approx(0.4)
    assert compute("windowed_forgetting", run) == pytest.approx(BY_HAND["windowed_forgetting"])
    assert compute("windowed_plasticity", run) == pytest.approx((0.8 + 0.6) / 2)
    for name in ("min_accuracy_of_probes", "worst_case_accuracy_of_probes"):
        assert "no probes were made" in str(compute(name, run))


def test_a_change_counts_within_ten_evaluations() -> None:
    """It rises by 0.05 an evaluation: ten of them are nine steps apart at most."""
    probes = [Probe(0, None, False, {0: 0.05 * i}) for i in range(21)]
    run = Measured("class_il", 1, [[1.0]], probes=probes)
    assert compute("windowed_plasticity", run) == pytest.approx(9 * 0.05)
    assert compute("windowed_forgetting", run) == pytest.approx(-0.05)


def test_no_gap_where_the_fall_stays() -> None:
    probes = [*PROBES[:5], Probe(1, None, True, {0: 0.1, 1: 0.8})]
    assert compute("stability_gap", replace(RUN, probes=probes)) == 0.0


@pytest.mark.parametrize(
    ("probes", "name", "reason"),
    [
        ((), "stability_gap", "nothing was evaluated within tasks"),
        ((), "windowed_forgetting", "nothing was evaluated within tasks"),
        (PROBES[:3], "windowed_forgetting", "less than twice"),
        (PROBES[:6], "stability_gap", "some tasks were not evaluated within"),
        (PROBES[:3], "min_accuracy_of_probes", "do not cover"),
        (PROBES[:1], "average_anytime_accuracy_of_probes", "evaluation.probe_every"),
    ],
)
def test_undefined(probes: list[Probe], name: str, reason: str) -> None:
    value = compute(name, replace(RUN, probes=probes))
    assert isinstance(value, Undefined), value
    assert reason in str(value)
