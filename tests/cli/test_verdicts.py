"""Welch's test against tables and hand computation, and verdicts."""

from __future__ import annotations

import math

import pytest

from perdure.cli.verdicts import Sample, published, verdict, welch
from perdure.config.tables import Figure

METRIC = "average_accuracy.class_il"


def t_cdf(t: float, df: float, steps: int = 200_000) -> float:
    """P(|T| > t) by the trapezoid rule on Student's density."""
    c = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    h = t / steps
    inner = sum((1 + (k * h) ** 2 / df) ** (-(df + 1) / 2) for k in range(1, steps))
    ends = (1 + (1 + t**2 / df) ** (-(df + 1) / 2)) / 2
    return 1 - 2 * c * h * (inner + ends)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Sample(87.02, 1.12, 3), Sample(86.3, 1.47, 24)),
        (Sample(50.0, 2.0, 5), Sample(45.0, 3.0, 10)),
        (Sample(10.0, 0.5, 4), Sample(10.2, 4.0, 4)),
    ],
)
def test_welch_by_numerical_integration(a: Sample, b: Sample) -> None:
    va, vb = a.std**2 / a.n, b.std**2 / b.n
    t = abs(a.mean - b.mean) / math.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1))
    assert welch(a, b) == pytest.approx(t_cdf(t, df), abs=1e-6)
    assert welch(b, a) == welch(a, b)


def test_student_s_own_table() -> None:
    """t = 2.776 is the two-sided 5 % point of 4 degrees of freedom; one sample has no spread."""
    known = Sample(0.0, 0.0, 10)
    ours = Sample(2.776 * 3 / math.sqrt(5), 3.0, 5)
    assert welch(ours, known) == pytest.approx(0.05, abs=1e-4)


def test_without_any_spread() -> None:
    assert welch(Sample(1.0, 0.0, 3), Sample(1.0, 0.0, 3)) == 1.0
    assert welch(Sample(1.0, 0.0, 3), Sample(2.0, 0.0, 3)) == 0.0
    assert welch(Sample(1.0, 2.0, 1), Sample(9.0, 0.0, 3)) == 1.0  # one run says nothing


def test_what_is_not_said_is_ours_with_a_floor_of_a_point() -> None:
    ours = Sample(80.0, 0.2, 5)
    assert published(Figure(METRIC, 81.0, "paper"), ours) == Sample(81.0, 1.0, 5)
    assert published(Figure(METRIC, 81.0, "paper"), Sample(80.0, 3.0, 5)).std == 3.0
    assert published(Figure(METRIC, 81.0, "paper", std=0.1, n=10), ours) == Sample(81.0, 0.1, 10)


@pytest.mark.parametrize(
    ("origin", "p", "n", "expected"),
    [
        ("paper", 0.5, 5, "agrees"),
        ("copy", 0.01, 5, "agrees"),
        ("paper", 0.0099, 5, "differs"),
        ("recalled", 0.5, 5, "consistent"),
        ("recalled", 0.001, 5, "differs (recalled)"),
        ("claimed", 0.9, 5, "consistent"),
        ("paper", 0.9, 1, "one seed"),
    ],
)
def test_a_figure_that_is_not_sure_never_agrees(
    origin: str, p: float, n: int, expected: str
) -> None:
    assert verdict(Figure(METRIC, 80.0, origin), Sample(80.0, 1.0, n), p) == expected
