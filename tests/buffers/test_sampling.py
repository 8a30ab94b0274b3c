"""Subsets from uniform numbers: Floyd's algorithm against a loop, and in distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from perdure.buffers.sampling import subsets


def floyd(uniforms: list[float], size: int) -> list[int]:
    """One set, one number at a time."""
    chosen: list[int] = []
    for last, u in enumerate(uniforms, size - len(uniforms)):
        t = int(u * (last + 1))
        chosen.append(last if t in chosen else t)
    return chosen


@given(
    seed=st.integers(0, 2**32), rows=st.integers(0, 5), k=st.integers(0, 12), more=st.integers(0, 9)
)
def test_equals_the_loop_and_never_repeats_a_number(
    seed: int, rows: int, k: int, more: int
) -> None:
    size = k + more
    uniforms = np.random.default_rng(seed).random((rows, k))
    found = subsets(uniforms, size)
    assert found.dtype == np.int64
    assert found.tolist() == [floyd(row, size) for row in uniforms.tolist()]
    for row in found.tolist():
        assert len(set(row)) == k
        assert all(0 <= number < size for number in row)


def test_every_set_is_as_likely(chi_square_limit: Callable[[int], float]) -> None:
    runs = 5600
    found = subsets(np.random.default_rng(3).random((runs, 3)), 8)
    counts = Counter(tuple(sorted(row)) for row in found.tolist())
    sets = list(itertools.combinations(range(8), 3))
    expected = runs / len(sets)
    statistic = sum((counts[each] - expected) ** 2 / expected for each in sets)
    assert statistic < chi_square_limit(len(sets) - 1)
