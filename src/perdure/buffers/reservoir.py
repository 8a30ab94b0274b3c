"""Reservoir sampling: every example seen so far is in the buffer with the same probability."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.sampling import Uniforms


class Reservoir(StepPolicy):
    """Algorithm R (Waterman, in Knuth 1981, 3.4.2; Vitter 1985), a batch at a time.

    Example number i (from 0) takes slot i while there is room; later r = ⌊u (i + 1)⌋ is uniform on
    0…i, and it replaces slot r if there is one. Vectorized over the batch with the same numbers as
    the loop over examples; of two that choose one slot the later stays, as it would there.
    """

    name: ClassVar[str] = "reservoir"
    stays_full: ClassVar[bool] = True

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        n, seen = len(offer), self.seen
        u = uniforms.random(n)
        if seen >= self.size and u.min() * (seen + 1) >= self.size:
            return [], []  # as most batches of a long stream: no r is below the size
        numbers = np.arange(seen, seen + n)
        # At most i, also after rounding: u is at most 1 − 2⁻⁵³.
        slots = (u * (numbers + 1)).astype(np.int64)
        free = max(0, self.size - seen)
        slots[:free] = numbers[:free]
        (rows,) = (slots < self.size).nonzero()
        if self.held < min(seen, self.size):  # after `adopt` from a smaller buffer
            rows = self._close_gap(slots, rows)
        if not rows.size:
            return [], []
        last = dict(zip(slots[rows].tolist(), rows.tolist(), strict=True))
        return list(last.values()), list(last.keys())

    def _close_gap(self, slots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Slots beyond the last one follow it without a gap.

        Changes `slots`; returns the rows of `rows` that are kept.
        """
        beyond = rows[slots[rows] >= self.held]
        slots[beyond] = self.held + np.arange(len(beyond))
        kept: np.ndarray = rows[slots[rows] < self.size]
        return kept
