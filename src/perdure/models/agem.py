"""A-GEM: averaged gradient episodic memory (gradient projection)."""

from __future__ import annotations

from perdure.datasets.batch import Batch
from perdure.models.base import Loss
from perdure.models.projection import Projected


class AGEM(Projected):
    """Project the gradient so that the average loss on the memory does not grow.

    Chaudhry et al. 2019, "Efficient lifelong learning with A-GEM", eq. 11 and Alg. 2:
    g̃ = g − (gᵀg_ref / g_refᵀg_ref) g_ref where gᵀg_ref < 0, with g_ref the gradient on a batch
    drawn from the memory. The memory holds examples of earlier tasks only, so it is offered a
    task's examples when the task ends. The paper's equal share a task is buffer=ring-task;
    with a size of the number of tasks times the batch size it is one batch of each task, which
    later versions of the authors' code keep.
    """

    store_at = "task"

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))
