"""A-GEM-R: averaged gradient episodic memory with a reservoir that is filled at each step."""

from __future__ import annotations

from perdure.datasets.batch import Batch
from perdure.models.base import Loss
from perdure.models.projection import Projected


class AGEMR(Projected):
    """Project the gradient so that the average loss on all examples seen so far does not grow.

    Buzzega et al. 2020, "Dark experience for general continual learning" (A-GEM-R): A-GEM
    (Chaudhry et al. 2019, eq. 11), g̃ = g − (gᵀg_ref / g_refᵀg_ref) g_ref where gᵀg_ref < 0, with a
    memory that takes the examples of each step and needs no boundaries between tasks. It thus
    holds examples of the current task too.

    Deviation: replayed images are normalized as new ones are, which the authors' code leaves out.
    """

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))
