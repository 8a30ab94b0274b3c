"""Tests and intervals against SciPy, by hand, and by simulation of their error rates."""

from __future__ import annotations

import itertools
import math
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from perdure.analysis import statistics
from perdure.analysis.statistics import (
    effect_size,
    holm,
    interval,
    is_exact,
    least_p,
    least_pairs,
    seeds_needed,
    sign_flip,
    student,
    wilcoxon,
)

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Differences in height of 15 pairs of maize, in eighths of an inch: Fisher 1935, section 17."""
FINITE = st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 6))
SAMPLES = st.lists(FINITE, min_size=2, max_size=10)


def samples(n: int, repeats: int, shift: float = 0.0) -> list[list[float]]:
    rows = np.random.default_rng(n).normal(shift, 1.0, size=(repeats, n))
    return [list(map(float, row)) for row in rows]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


# --- the sign-flip test ---------------------------------------------------------------------------


def test_fisher_s_own_example() -> None:
    """Of 32,768 ways 863 on each side are as far or farther: section 21 of the book."""
    assert sign_flip(DARWIN) == 2 * 863 / 2**15


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_sign_flip_by_trying_all_signs(n: int) -> None:
    for row in samples(n, 5, 0.5):
        sums = [sum(s * d for s, d in zip(signs, row, strict=True))
                for signs in itertools.product((1, -1), repeat=n)]  # fmt: skip
        expected = mean(abs(total) >= abs(sum(row)) - 1e-12 for total in sums)
        assert sign_flip(row) == expected


def test_many_pairs_are_sampled_and_the_same_each_time() -> None:
    (row,) = samples(20, 1, 0.5)
    every = np.zeros(1)
    for value in row:
        every = np.concatenate([every + value, every - value])
    exact = np.mean(np.abs(every) >= abs(sum(row)) - 1e-9)
    assert sign_flip(row) == pytest.approx(exact, rel=0.1)
    assert sign_flip(row) == sign_flip(row)
    assert is_exact("sign-flip", 16)
    assert not is_exact("sign-flip", 17)


@given(SAMPLES)
def test_sign_flip_knows_no_order_side_or_unit(row: list[float]) -> None:
    p = sign_flip(row)
    assert least_p("sign-flip", len(row)) <= p <= 1
    assert sign_flip(row[::-1]) == p
    assert sign_flip([-4 * d for d in row]) == p  # a power of two: no rounding


def test_equal_runs_are_no_evidence() -> None:
    assert sign_flip([0.0] * 8) == wilcoxon([0.0] * 8) == student([0.0] * 8) == 1.0
    assert sign_flip([0.1] * 8) == 2 / 2**8  # sums that differ by rounding alone are equal


# --- other tests ----------------------------------------------------------------------------------


def test_student_and_wilcoxon_are_scipy_s() -> None:
    for row in samples(7, 5, 0.5):
        assert student(row) == pytest.approx(stats.ttest_1samp(row, 0).pvalue, abs=1e-12)
        assert wilcoxon(row) == stats.wilcoxon(row).pvalue
    assert student([0.3]) == 1.0
    assert student([0.25, 0.25]) == 0.0


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 30])
def test_student_s_distribution(df: int) -> None:
    for t in (0.1, 1.0, 2.5, 8.0):
        expected = 1 - 2 * stats.t.sf(t, df)
        assert statistics._t_within(t, df) == pytest.approx(expected, abs=1e-13)
    assert statistics._t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-10)


def test_the_least_p_values() -> None:
    for n in range(1, 8):
        assert sign_flip([1.0] * n) == least_p("sign-flip", n)
        assert wilcoxon(list(range(1, n + 1))) == pytest.approx(least_p("wilcoxon", n))
    assert least_p("sign-flip", 0) == least_p("t", 1) == 1.0
    assert [least_pairs("sign-flip", level) for level in (0.5, 0.05, 0.01)] == [2, 6, 8]
    assert least_pairs("t", 0.01) == 2


@pytest.mark.parametrize("test", ["sign-flip", "wilcoxon", "t"])
def test_without_a_difference_5_of_100_tests_reject(test: str) -> None:
    function = statistics.TESTS[test][1]
    rejected = mean(function(row) <= 0.05 for row in samples(8, 1000))
    # Of n = 8 differences 12 of 256 arrangements reject: 0.047, ± 3 standard errors.
    assert 0.047 - 0.021 < rejected < 0.05 + 0.021


# --- estimates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "least"), [(5, 0.90), (6, 0.92), (8, 0.925), (20, 0.93)])
def test_intervals_hold_the_mean_95_times_of_100(n: int, least: float) -> None:
    rows = samples(n, 1000)
    held = mean(low <= 0 <= high for low, high in (interval(row, draws=1000) for row in rows))
    assert least - 0.02 < held < 0.97


@given(SAMPLES)
def test_intervals_lie_within_the_differences(row: list[float]) -> None:
    low, high = interval(row, draws=200)
    assert min(row) - 1e-12 <= low <= high <= max(row) + 1e-12
    assert interval(row, draws=200) == (low, high)


def test_an_interval_of_many_is_that_of_student() -> None:
    (row,) = samples(200, 1, 0.3)
    expected = stats.t.interval(0.95, 199, np.mean(row), stats.sem(row))
    assert interval(row) == pytest.approx(expected, abs=0.01)
    assert interval([0.5]) == (-math.inf, math.inf)


def test_effect_sizes_by_hand() -> None:
    # Mean 2, standard deviation 1, three differences: 2 (1 - 3/7).
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(8 / 7)
    assert effect_size([1.0, 2.0]) is None
    assert effect_size([0.5, 0.5]) is None


def test_hedges_correction_removes_the_bias() -> None:
    effects = [effect_size(row) or 0.0 for row in samples(5, 20_000, 0.8)]
    assert mean(effects) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("effect", [0.5, 0.8, 1.2])
def test_so_many_pairs_have_80_percent_power(effect: float) -> None:
    """For the paired t-test, by the noncentral t distribution."""
    row = np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    row += effect / (1 - 3 / 15) * row.std(ddof=1)
    assert effect_size(list(row)) == pytest.approx(effect)
    n = seeds_needed(list(row), "t", 0.05)
    assert n is not None
    edge = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(edge, n - 1, effect * math.sqrt(n))
    assert 0.79 < power < 0.88


def test_needed_seeds_at_the_ends() -> None:
    assert seeds_needed([1.0, 1.1], "sign-flip") is None
    assert seeds_needed([0.5, -0.5, 0.0], "sign-flip") is None
    assert seeds_needed([1.0, 1.001, 0.999], "sign-flip") == 6  # never below what it can reject
    assert seeds_needed([1.0, 1.0, 1.0], "sign-flip", 0.01) == 8
    assert seeds_needed([1.0, -0.999, 0.0], "sign-flip") is None  # more than anybody runs
