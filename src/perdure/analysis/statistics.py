"""Statistics of paired runs: bootstrap interval, permutation test, effect size, sample size, Holm.

Pure functions of plain numbers. A *difference* is the metric of one run minus that of another run
of the same seed and class order. Random draws come from fixed seeds, so that a table made twice is
the same table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, mean, stdev

import numpy as np

from perdure.errors import UserError

LEVEL = 0.05
"""Chance of a claim, over all comparisons of a table, though there is no difference."""
POWER = 0.8
"""Chance of a claim, where the difference is what it was observed to be, for `seeds_needed`."""
MOST_EXACT = 16
"""Pairs up to which all 2^n signs are tried."""
_DRAWS = 10_000
_NORMAL = NormalDist()
_MOST_SEEDS = 10_000


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for so many tests.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted


# --- tests ----------------------------------------------------------------------------------------


def sign_flip(differences: Sequence[float], draws: int = 20_000, seed: int = 0) -> float:
    """The two-sided p value of the permutation test that differences are symmetric around 0.

    The share of the 2^n ways to choose their signs whose mean is at least as far from 0: Fisher
    1935, "The Design of Experiments", section 21. All ways up to `MOST_EXACT` differences; above,
    `draws` random ones, as (k + 1) / (draws + 1) (Phipson and Smyth 2010, eq. 2).
    """
    values = np.abs(np.asarray(differences, dtype=np.float64))
    observed = abs(math.fsum(differences))
    least = observed - 1e-9 * float(values.sum())  # sums that are equal but for rounding are equal
    if len(values) <= MOST_EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= least))
    generator = np.random.default_rng(seed)
    signs = generator.integers(0, 2, size=(draws, len(values)), dtype=np.int8) * 2 - 1
    extreme = int(np.count_nonzero(np.abs(signs @ values) >= least))
    return (extreme + 1) / (draws + 1)


def wilcoxon(differences: Sequence[float]) -> float:
    """The two-sided p value of Wilcoxon's signed-rank test; differences of 0 are dropped.

    Wilcoxon 1945, "Individual comparisons by ranking methods"; exact for up to 50 differences
    without ties, else by the normal distribution (SciPy's `method="auto"`).

    Raises:
        UserError: SciPy is not installed.
    """
    try:
        from scipy import stats  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            "--test wilcoxon: SciPy is not installed; pip install 'perdure[paper]', or use "
            "--test sign-flip"
        ) from error
    return float(stats.wilcoxon(differences).pvalue) if any(differences) else 1.0


def student(differences: Sequence[float]) -> float:
    """The two-sided p value of Student's paired t-test that the mean difference is 0.

    Student 1908, "The probable error of a mean". It takes the differences to be normal.
    """
    n = len(differences)
    if n < 2:
        return 1.0
    spread = stdev(differences)
    if not spread:
        return 1.0 if not mean(differences) else 0.0
    return 1 - _t_within(abs(mean(differences)) / spread * math.sqrt(n), n - 1)


TESTS: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "sign-flip": ("sign-flip test", sign_flip),
    "wilcoxon": ("Wilcoxon signed-rank test", wilcoxon),
    "t": ("paired t-test", student),
}
"""How a test is called on the command line → in a sentence, and its function."""


def least_p(test: str, n: int) -> float:
    """The smallest p value that `test` can give for `n` differences; 1 where it cannot be made."""
    if n < 1:
        return 1.0
    return 2.0 ** -(n - 1) if test != "t" else float(n < 2)


def least_pairs(test: str, level: float) -> int:
    """How many differences `test` needs at least before it can reject at `level`."""
    n = 1
    while least_p(test, n) > level:
        n += 1
    return n


def is_exact(test: str, n: int) -> bool:
    """Whether the p value of `n` differences is that of the test itself, not of random draws."""
    return test == "sign-flip" and n <= MOST_EXACT


# --- estimates ------------------------------------------------------------------------------------


def interval(
    differences: Sequence[float], level: float = 0.95, draws: int = _DRAWS, seed: int = 0
) -> tuple[float, float]:
    """A bootstrap interval that holds the mean difference with probability `level`.

    The expanded percentile interval of Hesterberg 2015, "What teachers should know about the
    bootstrap", section 3.4: percentiles Φ(±√(n/(n-1)) t) in place of (1 ∓ level)/2, t the quantile
    of Student's distribution. The plain percentile interval is too narrow for few runs (for five
    it holds the mean 84 times of 100, not 95). Below six differences even the whole range of
    resampled means holds it less often than 95 times of 100.

    Args:
        differences: n ≥ 2 of them; fewer give (-inf, inf).
        level: 0.95 for a 95 % interval.
        draws: resampled means.
        seed: of the draws.
    """
    n = len(differences)
    if n < 2:
        return -math.inf, math.inf
    values = np.asarray(differences, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(0, n, size=(draws, n))
    means = values[chosen].mean(axis=1)
    outside = _NORMAL.cdf(-math.sqrt(n / (n - 1)) * _t_quantile((1 + level) / 2, n - 1))
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z with Hedges' correction: the mean in standard deviations of the differences.

    Cohen 1988, "Statistical Power Analysis for the Behavioral Sciences", eq. 2.3.5, times
    1 - 3/(4(n-1) - 1) (Hedges 1981, eq. 6), since few runs overstate it. None for fewer than three
    differences, whose correction is 0, or where they do not differ from each other.
    """
    n = len(differences)
    if n < 3 or not (spread := stdev(differences)):
        return None
    return mean(differences) / spread * (1 - 3 / (4 * (n - 1) - 1))


def seeds_needed(
    differences: Sequence[float], test: str, level: float = LEVEL, power: float = POWER
) -> int | None:
    """How many pairs in all `test` would need to find the observed effect.

    n = (z_{1-level/2} + z_power)² / d² + z²_{1-level/2} / 2 for the paired t-test (Guenther 1981,
    "Sample size formulas for normal theory t tests"), d the corrected effect size. Rank and
    permutation tests need about as many, and not fewer than `least_pairs`. It is as uncertain as
    the effect. None where there is no effect, more than 10,000 would be needed, or fewer than three
    differences are known.
    """
    if len(differences) < 3:
        return None
    least = least_pairs(test, level)
    effect = effect_size(differences)
    if effect is None:
        return least if mean(differences) else None
    z = _NORMAL.inv_cdf(1 - level / 2)
    needed = math.inf
    if effect:
        needed = (z + _NORMAL.inv_cdf(power)) ** 2 / effect**2 + z**2 / 2
    return None if needed > _MOST_SEEDS else max(least, math.ceil(needed))


def _t_within(t: float, df: int) -> float:
    """P(|T| ≤ t) of Student's distribution for integer `df`.

    Abramowitz and Stegun 1964, eqs. 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(df))
    cos2, odd = math.cos(angle) ** 2, df % 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = term if df > 1 or not odd else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + total) if odd else total


def _t_quantile(p: float, df: int) -> float:
    """Where Student's distribution reaches `p` ≥ 1/2, by bisection."""
    low, high = 0.0, 1.0
    while _t_within(high, df) < 2 * p - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, df) < 2 * p - 1 else (low, middle)
    return high
