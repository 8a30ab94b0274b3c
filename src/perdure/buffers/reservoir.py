"""Reservoir sampling: every example seen so far is in the buffer with the same probability."""

from __future__ import annotations

import numpy as np

from perdure.buffers.base import Buffer, Placement


class Reservoir(Buffer):
    """Algorithm R (Waterman, in Knuth 1981, 3.4.2; Vitter 1985), a batch at a time.

    Example number i (from 0) takes slot i while there is room; later it draws r uniformly from
    0…i and replaces slot r if there is one. Vectorized over the batch with the same draws as the
    loop over examples; of two that draw one slot the later stays, as it would there.
    """

    def place(self, labels: np.ndarray, generator: np.random.Generator) -> Placement:
        slots = np.arange(self.seen, self.seen + len(labels))
        free = max(0, min(self.size - self.seen, len(labels)))
        if free < len(labels):
            slots[free:] = generator.integers(0, slots[free:] + 1)
        (rows,) = np.nonzero(slots < self.size)
        if len(self) < min(self.seen, self.size):
            rows = self._close_gap(slots, rows)
        if not rows.size:
            return [], []
        last = dict(zip(slots[rows].tolist(), rows.tolist(), strict=True))
        return list(last.values()), list(last.keys())

    def _close_gap(self, slots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """In a buffer that holds less than it could (`adopt`), slots beyond the last follow it.

        Changes `slots`; returns the rows of `rows` that are kept.
        """
        beyond = rows[slots[rows] >= len(self)]
        slots[beyond] = len(self) + np.arange(len(beyond))
        return rows[slots[rows] < self.size]
