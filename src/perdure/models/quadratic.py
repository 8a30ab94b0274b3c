"""Quadratic programs with lower bounds (QP, non-negative least squares), on the host in float64.

An active-set method after Lawson & Hanson 1974, "Solving least squares problems", ch. 23, on the
normal equations. For a few dozen variables, as GEM has them: one a task.
"""

from __future__ import annotations

import numpy as np

_TOLERANCE = 1e-12


def minimize_above(p: np.ndarray, q: np.ndarray, least: float) -> np.ndarray:
    """argmin ½ vᵀPv + qᵀv where every v ≥ `least`.

    Args:
        p: P, float64 [k, k], symmetric and positive semidefinite; where it is singular, the
            objective must be bounded from below.
        q: float64 [k].
        least: the bound of every variable.

    Returns:
        v, float64 [k]; one of the minimizers, where there are several.
    """
    # In x = v − least ≥ 0: ½ xᵀPx − bᵀx, with the negative gradient b − Px.
    b = -(q + least * p.sum(1))
    x = np.zeros_like(b)
    free = np.zeros(len(b), dtype=bool)
    scale = _TOLERANCE * max(float(np.abs(b).max(initial=0)), np.finfo(float).tiny)
    # Each round lowers the objective, so no set of free variables comes twice; the bound is there
    # for rounding alone.
    for _ in range(10 * len(b) + 10):
        descent = np.where(free, -np.inf, b - p @ x)
        if descent.max(initial=-np.inf) <= scale:
            break
        free[descent.argmax()] = True
        x, free = _solve_within(p, b, x, free)
    v: np.ndarray = x + least
    return v


def _solve_within(
    p: np.ndarray, b: np.ndarray, x: np.ndarray, free: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The minimizer over the free variables, of which those that would become negative are fixed.

    Goes from `x` towards the unconstrained minimizer as far as no variable is negative, fixes those
    that have become zero, and goes on.
    """
    while free.any():
        target = np.zeros_like(x)
        target[free] = np.linalg.lstsq(p[np.ix_(free, free)], b[free], rcond=None)[0]
        blocking = free & (target <= 0)
        if not blocking.any():
            return target, free
        gap = x[blocking] - target[blocking]
        share = (x[blocking] / np.where(gap > 0, gap, 1)).min()
        x = x + min(1.0, float(share)) * (target - x)
        free = free & ~(blocking & (x <= _TOLERANCE * max(1.0, float(np.abs(x).max()))))
        x = np.where(free, x, 0.0)
    return x, free
