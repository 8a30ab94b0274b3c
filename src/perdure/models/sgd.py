"""SGD, fine-tuning: the lower bound (and, with `training=joint`, the upper bound)."""

from __future__ import annotations

from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method


class FineTuning(Method):
    """Plain training on each task in turn, with nothing against forgetting."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))
