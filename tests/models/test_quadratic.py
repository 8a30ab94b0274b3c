"""Quadratic programs with lower bounds: optimality conditions, and known solutions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.models.quadratic import minimize_above


def program(seed: int, k: int, rank: int, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """P of a given rank plus a ridge, and q in its range, as GEM's are: P = GGᵀ, q = Gg."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(k, rank))
    return rows @ rows.T + ridge * np.eye(k), rows @ generator.normal(size=rank)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    k=st.integers(1, 25),
    rank=st.integers(1, 30),
    ridge=st.sampled_from([0.0, 1e-9, 1e-3, 1.0]),
    least=st.sampled_from([0.0, 0.5, 2.0, -1.0]),
)
def test_the_minimum_satisfies_the_optimality_conditions(
    seed: int, k: int, rank: int, ridge: float, least: float
) -> None:
    """Karush-Kuhn-Tucker: v ≥ least, Pv + q ≥ 0, and one of both with equality."""
    p, q = program(seed, k, rank, ridge)
    v = minimize_above(p, q, least)
    slope = p @ v + q
    tolerance = 1e-7 * (1 + np.abs(p).sum() * max(1.0, np.abs(v).max()))
    assert v.min() >= least
    assert slope.min() >= -tolerance
    assert np.abs((v - least) * slope).max() <= tolerance * max(1.0, np.abs(v).max())


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_free_variables_is_better(seed: int) -> None:
    """Against all 2ᵏ sets of variables that may be free."""
    p, q = program(seed, 5, 7, 1e-3)
    best = np.inf
    for chosen in product([False, True], repeat=5):
        free = np.array(chosen)
        v = np.full(5, 0.5)
        if free.any():
            rest = q[free] + p[np.ix_(free, ~free)] @ v[~free]
            v[free] = np.linalg.solve(p[np.ix_(free, free)], -rest)
        if v.min() >= 0.5 - 1e-12:
            best = min(best, 0.5 * v @ p @ v + q @ v)
    found = minimize_above(p, q, 0.5)
    assert 0.5 * found @ p @ found + q @ found == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_equal_rows_of_a_singular_program() -> None:
    """Two tasks with one and the same gradient: their multipliers share what one alone would be."""
    row = np.array([[1.0, 2.0, 0.0]])
    rows = np.concatenate([row, row])
    g = np.array([-3.0, 0.0, 1.0])
    v = minimize_above(rows @ rows.T, rows @ g, 0.0)
    assert v.sum() == pytest.approx(3 / 5)
    assert rows @ (g + rows.T @ v) == pytest.approx(np.zeros(2), abs=1e-12)
