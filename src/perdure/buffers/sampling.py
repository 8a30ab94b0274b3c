"""Random choices from uniform numbers: subsets without replacement (Floyd's algorithm), vectorized.

Buffers take their randomness as uniform numbers in [0, 1). So the numbers of many steps can be
drawn at once, before it is known what they decide, and a decision is a function of its own numbers
alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Uniforms(Protocol):
    """A source of uniform numbers in [0, 1); NumPy's `Generator` is one."""

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        """float64 [size]."""


def subsets(uniforms: np.ndarray, size: int) -> np.ndarray:
    """For each row a set of k different integers below `size`, all sets equally likely.

    Floyd's algorithm (Bentley & Floyd 1987, "A sample of brilliance"), for all rows at once. The
    order within a set is not random.

    Args:
        uniforms: float64 [n, k] in [0, 1), with k at most `size`.
        size: how many integers there are to choose from.

    Returns:
        int64 [n, k].
    """
    k = uniforms.shape[1]
    chosen = (uniforms * np.arange(size - k + 1, size + 1)).astype(np.int64)
    for j in range(1, k):
        again = (chosen[:, :j] == chosen[:, j : j + 1]).any(1)
        chosen[again, j] = size - k + j
    return chosen
