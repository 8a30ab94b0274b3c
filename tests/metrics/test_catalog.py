"""Each metric of the catalog against a computation by hand, and what leaves it undefined."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.metrics.calibration import Calibration
from perdure.metrics.catalog import CATALOG, compute, table
from perdure.metrics.measured import (
    Confusions,
    Evaluated,
    Examples,
    Measured,
    Probe,
    Undefined,
)

NAN = math.nan
MATRIX = [[0.9], [0.6, 0.8], [0.7, 0.5, 1.0]]
AHEAD = [[0.9, 0.3, 0.2], [0.6, 0.8, 0.4], [0.7, 0.5, 1.0]]

RUN = Measured(
    accuracy="domain_il",
    n_tasks=3,
    matrix=MATRIX,
    evaluations=[
        Evaluated(-1, True, [0.1, 0.1, 0.2]),
        Evaluated(0, True, AHEAD[0]),
        Evaluated(1, False, [0.2, 0.4, 0.1]),
        Evaluated(1, True, AHEAD[1]),
        Evaluated(2, True, AHEAD[2]),
    ],
    incoming=[(3, 10), (10, 10), (2, 5)],
    baseline=[1.0, 0.5, 0.8, 0.1],
    examples=Examples(
        correct=np.array([True, False, True, True]),
        confidence=np.array([0.75, 0.75, 1.0, 0.2], np.float16),
        brier=np.array([0.125, 1.125, 0.0, 1.0], np.float16),
    ),
    confusions=Confusions([(0, 0, 5), (0, 3, 2), (1, 0, 1), (1, 2, 3), (3, 0, 7)], {2, 3}),
)

BY_HAND = {
    "average_accuracy": (0.7 + 0.5 + 1.0) / 3,
    "average_incremental_accuracy": (0.9 + (0.6 + 0.8) / 2 + (0.7 + 0.5 + 1.0) / 3) / 3,
    "average_anytime_accuracy": (0.9 + (0.2 + 0.4) / 2 + 0.7 + 2.2 / 3) / 4,
    "forgetting": ((0.9 - 0.7) + (0.8 - 0.5)) / 2,
    "relative_forgetting": (0.2 / 0.9 + 0.3 / 0.8) / 2,
    "backward_transfer": ((0.7 - 0.9) + (0.5 - 0.8)) / 2,
    "forward_transfer": ((0.3 - 0.1) + (0.4 - 0.2)) / 2,
    "learning_accuracy": (0.9 + 0.8 + 1.0) / 3,
    "intransigence": ((1.0 - 0.9) + (0.5 - 0.8) + (0.8 - 1.0)) / 3,
    "plasticity": (0.9 / 1.0 + 0.8 / 0.5 + 1.0 / 0.8) / 3,
    "min_accuracy": (min(0.2, 0.6, 0.7) + 0.5) / 2,
    "worst_case_accuracy": 1.0 / 3 + 2 / 3 * (0.2 + 0.5) / 2,
    # Bins of 1/15: two at 0.75 (one right), one at 1, one at 0.2.
    "expected_calibration_error": (
        abs(1 - 2 * 0.75) + abs(1 - 1.0) + abs(1 - float(np.float16(0.2)))
    )
    / 4,
    "brier_score": (0.125 + 1.125 + 0.0 + 1.0) / 4,
    "prequential_accuracy": 15 / 25,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    value = compute(name, RUN)
    assert not isinstance(value, Undefined), value
    assert value == pytest.approx(BY_HAND[name])


def test_recency_bias() -> None:
    run = replace(RUN, accuracy="class_il")
    # Of the 11 examples of classes 0 and 1, five are taken for class 2 or 3.
    assert compute("recency_bias", run) == 5 / 11


def curve(task: int, values: list[float]) -> list[Probe]:
    return [Probe(task, b, False, {task: value}) for b, value in enumerate(values)]


def test_learning_curve_area() -> None:
    first, second = [b / 10 for b in range(11)], [0.5] * 11
    run = replace(RUN, matrix=MATRIX[:2], probes=[*curve(0, first), *curve(1, second)])
    by_hand = sum((a + b) / 2 for a, b in zip(first, second, strict=True)) / 11
    assert compute("learning_curve_area", run) == pytest.approx(by_hand)
    for probes in (curve(0, first), [*curve(0, first), *curve(1, second[:10])]):
        value = compute("learning_curve_area", replace(run, probes=probes))
        assert "evaluation.first_batches=10" in str(value)


UNDEFINED = {
    "one task": (
        replace(RUN, matrix=[[0.9]], evaluations=RUN.evaluations[:2]),
        {"forgetting", "relative_forgetting", "backward_transfer", "forward_transfer",
         "min_accuracy"},
        "fewer than two tasks",
    ),
    "no task": (
        Measured("domain_il", 3, []),
        {"average_accuracy", "average_incremental_accuracy", "learning_accuracy",
         "worst_case_accuracy"},
        "no task is trained yet",
    ),
    "joint": (
        replace(RUN, joint=True, matrix=[[0.9, 0.8, 0.7]]),
        {"average_incremental_accuracy", "forgetting", "relative_forgetting", "backward_transfer",
         "forward_transfer", "learning_accuracy", "intransigence", "plasticity", "min_accuracy",
         "worst_case_accuracy", "learning_curve_area", "prequential_accuracy", "stability_gap",
         "windowed_forgetting"},
        "all tasks were trained at once",
    ),
    "ends left out": (
        replace(
            RUN, matrix=[[0.9], [NAN, NAN], [0.7, 0.5, 1.0]],
            evaluations=[RUN.evaluations[1], RUN.evaluations[4]],
        ),
        {"average_incremental_accuracy", "forgetting", "relative_forgetting", "backward_transfer",
         "learning_accuracy", "intransigence", "plasticity", "min_accuracy"},
        "the ends of some tasks were not evaluated",
    ),
    "not ahead": (
        replace(RUN, evaluations=[Evaluated(t, True, row) for t, row in enumerate(MATRIX)]),
        {"forward_transfer"},
        "training.evaluate_future=true",
    ),
    "class-IL": (replace(RUN, accuracy="class_il"), {"forward_transfer"}, "cannot be chosen"),
    "own classes": (RUN, {"recency_bias"}, "the example's own task"),
    "no confusions": (
        replace(RUN, accuracy="class_il", confusions=None), {"recency_bias"}, "no confusions",
    ),
    "nothing new": (
        replace(RUN, accuracy="class_il", confusions=Confusions([(0, 0, 5)], set())),
        {"recency_bias"}, "no earlier classes",
    ),
    "no records": (
        replace(RUN, examples=None), {"expected_calibration_error", "brier_score"},
        "evaluation.records=true",
    ),
    "another accuracy": (
        replace(RUN, is_first=False), {"expected_calibration_error", "brier_score"},
        "the benchmark's first accuracy",
    ),
    "no baseline": (
        replace(RUN, baseline=None), {"intransigence", "plasticity"}, "model=from-scratch",
    ),
    "a short baseline": (
        replace(RUN, baseline=[0.5, 0.5]), {"intransigence", "plasticity"}, "not evaluated on all",
    ),
    "a baseline of 0": (replace(RUN, baseline=[0.0, 1, 1]), {"plasticity"}, "is 0"),
    "a best of 0": (
        replace(RUN, matrix=[[0.0], [0.0, 0.8], [0.0, 0.5, 1.0]]), {"relative_forgetting"}, "is 0",
    ),
    "several passes": (replace(RUN, epochs=2), {"prequential_accuracy"}, "more than once"),
    "no incoming": (
        replace(RUN, incoming=[]), {"prequential_accuracy"}, "evaluation.probe_every",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNDEFINED)
def test_undefined_with_a_reason(case: str) -> None:
    run, names, reason = UNDEFINED[case]
    for name in names:
        value = compute(name, run)
        assert isinstance(value, Undefined), name
        assert reason in str(value), name


def test_a_joint_run_has_an_average() -> None:
    run = Measured("class_il", 3, [[0.9, 0.8, 0.7]], joint=True)
    assert compute("average_accuracy", run) == pytest.approx(0.8)


FRACTION = st.floats(0, 1)


@st.composite
def runs(draw: st.DrawFn) -> Measured:
    n = draw(st.integers(0, 4))
    matrix = [[draw(FRACTION) for _ in range(i + 1)] for i in range(n)]
    evaluations = [Evaluated(i, True, row) for i, row in enumerate(matrix)]
    probes = [
        Probe(i, b, b is None, {j: draw(FRACTION) for j in range(i + 1)})
        for i in range(n)
        for b in (0, 1, None)
    ]
    return Measured("domain_il", 5, matrix, evaluations=evaluations, probes=probes)


SIGNED = {"forgetting", "relative_forgetting", "backward_transfer", "forward_transfer"}
UNBOUNDED = {"relative_forgetting"}


@given(runs())
def test_bounds(run: Measured) -> None:
    """A fraction (or a difference of two), or a reason; nothing else whatever was measured."""
    for name in CATALOG:
        value = compute(name, run)
        if isinstance(value, Undefined):
            assert str(value)
        elif name not in UNBOUNDED:
            low = -1 if name in {*SIGNED, "windowed_forgetting", "windowed_plasticity"} else 0
            assert low <= value <= 1 + 1e-12, name


@given(runs())
def test_two_tasks(run: Measured) -> None:
    """With two tasks forgetting is the negative backward transfer."""
    if len(run.matrix) >= 2:
        two = replace(run, matrix=run.matrix[:2])
        assert compute("forgetting", two) == pytest.approx(-compute("backward_transfer", two))


@given(st.lists(st.tuples(st.booleans(), FRACTION), min_size=1, max_size=50), st.randoms())
def test_calibration_is_that_of_the_running_one_in_any_order(
    pairs: list[tuple[bool, float]], random: object
) -> None:
    """Of scores whose softmax over two classes has that confidence."""
    halves = [(right, float(np.float16(0.5 + confidence / 2))) for right, confidence in pairs]
    right = np.array([r for r, _ in halves])
    confidence = np.array([c for _, c in halves])
    examples = Examples(right, confidence.astype(np.float16), confidence)
    value = compute("expected_calibration_error", replace(RUN, examples=examples))
    by_bin: dict[int, list[tuple[bool, float]]] = {}
    for r, c in halves:
        by_bin.setdefault(min(14, max(0, math.ceil(c * 15) - 1)), []).append((r, c))
    gaps = [abs(sum(r for r, _ in each) - sum(c for _, c in each)) for each in by_bin.values()]
    assert value == pytest.approx(sum(gaps) / len(halves))
    shuffled = list(range(len(halves)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    moved = Examples(right[shuffled], examples.confidence[shuffled], confidence[shuffled])
    again = compute("expected_calibration_error", replace(RUN, examples=moved))
    assert again == pytest.approx(value)


def test_calibration_is_that_of_perdure_evaluate() -> None:
    scores = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))
    running = Calibration()
    running.add(scores, y)
    confidence, choice = scores.double().softmax(1).max(1)
    examples = Examples((choice == y).numpy(), confidence.numpy(), confidence.numpy())
    value = compute("expected_calibration_error", replace(RUN, examples=examples))
    assert value == pytest.approx(running.error())


def test_the_table_of_the_docs_is_the_catalog() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert table() in page, f"the table should be:\n{table()}"


@pytest.mark.parametrize("name", CATALOG)
def test_each_has_its_source(name: str) -> None:
    text = CATALOG[name].__doc__ or ""
    assert re.search(r"\b(1950|19[89]\d|20[012]\d)\b", text), "an author with a year"
    assert CATALOG[name].__name__ == name
