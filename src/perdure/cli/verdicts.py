"""Verdicts on published figures: Welch's t-test, and what its p value means in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from perdure.config.tables import Figure

LEVEL = 0.01
"""Chance of calling at least one of the figures of a table different though none is."""
FLOOR = 1.0
"""Least standard deviation, in points, that is taken for a figure published without one."""
_SURE = ("paper", "copy")


@dataclass(frozen=True)
class Sample:
    """Runs of one setting: mean and sample standard deviation in percent, and how many."""

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Of single runs."""
        return cls(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def published(figure: Figure, ours: Sample) -> Sample:
    """What was published, as a sample; what is not said of it is taken from ours.

    Without a standard deviation it is ours, with a floor of a point.
    """
    std = max(ours.std, FLOOR) if figure.std is None else figure.std
    return Sample(figure.mean, std, figure.n or ours.n)


def welch(a: Sample, b: Sample) -> float:
    """The two-sided p value of Welch's t-test that both have the same mean.

    Welch 1947, "The generalization of Student's problem when several different population variances
    are involved", with Satterthwaite's degrees of freedom.
    """
    variances = [sample.std**2 / sample.n for sample in (a, b)]
    total = sum(variances)
    if not total:
        return 1.0 if a.mean == b.mean else 0.0
    t_squared = (a.mean - b.mean) ** 2 / total
    ns = (a.n, b.n)
    weighted = [v**2 / (n - 1) for v, n in zip(variances, ns, strict=True) if v and n > 1]
    if not weighted:
        return 1.0
    df = total**2 / sum(weighted)
    import mpmath  # type: ignore[import-untyped]  # slow to import

    x = df / (df + t_squared)
    return float(mpmath.betainc(df / 2, 0.5, 0, x, regularized=True))


def verdict(figure: Figure, ours: Sample, p: float) -> str:
    """In words what an adjusted `p` means; a figure that is not sure is at best consistent."""
    if ours.n < 2:
        return "one seed"
    if math.isnan(p):
        return ""
    sure = figure.origin in _SURE
    if p >= LEVEL:
        return "agrees" if sure else "consistent"
    return "differs" if sure else f"differs ({figure.origin})"
