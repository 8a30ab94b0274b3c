"""ER: experience replay (rehearsal)."""

from __future__ import annotations

from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method


class ER(Method):
    """Learn each batch together with one drawn from the buffer.

    Chaudhry et al. 2019, "On tiny episodic memories in continual learning", Alg. 1 (Ratcliff 1990;
    Robins 1995): one mean over the stack of both batches.
    """

    replays = 1

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        both = batch + replay[0]
        return both.cross_entropy(self(both.x))
