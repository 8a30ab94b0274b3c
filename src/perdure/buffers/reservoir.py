"""Reservoir sampling: every example seen so far is in the buffer with the same probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from perdure.buffers.base import Buffer, Placement
from perdure.buffers.sampling import Uniforms


class Reservoir(Buffer):
    """Algorithm R (Waterman, in Knuth 1981, 3.4.2; Vitter 1985), a batch at a time.

    Example number i (from 0) takes slot i while there is room; later r = ⌊u (i + 1)⌋ is uniform on
    0…i, and it replaces slot r if there is one. Vectorized over the batch with the same numbers as
    the loop over examples; of two that choose one slot the later stays, as it would there.
    """

    _is_sparse = False
    """Whether it holds less than it would of what it has seen, as after `adopt` by a larger one."""

    def adopt(
        self,
        state: dict[str, Any],
        uniforms: Uniforms,
        device: torch.device | str = "cpu",
    ) -> None:
        super().adopt(state, uniforms, device)
        self._is_sparse = len(self) < min(self.seen, self.size)

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        super().load_state_dict(state, device)
        self._is_sparse = len(self) < min(self.seen, self.size)

    def place(self, labels: np.ndarray, uniforms: Uniforms) -> Placement:
        u = uniforms.random(len(labels))
        if self.seen >= self.size and u.min() * (self.seen + 1) >= self.size:
            return [], []  # as most batches of a long stream: no r is below the size
        numbers = np.arange(self.seen, self.seen + len(labels))
        # At most i, also after rounding: u is at most 1 − 2⁻⁵³.
        slots = (u * (numbers + 1)).astype(np.int64)
        free = max(0, self.size - self.seen)
        slots[:free] = numbers[:free]
        (rows,) = (slots < self.size).nonzero()
        if self._is_sparse:
            rows = self._close_gap(slots, rows)
        if not rows.size:
            return [], []
        last = dict(zip(slots[rows].tolist(), rows.tolist(), strict=True))
        return list(last.values()), list(last.keys())

    def _close_gap(self, slots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Slots beyond the last one follow it without a gap.

        Changes `slots`; returns the rows of `rows` that are kept.
        """
        beyond = rows[slots[rows] >= len(self)]
        slots[beyond] = len(self) + np.arange(len(beyond))
        kept: np.ndarray = rows[slots[rows] < self.size]
        return kept
