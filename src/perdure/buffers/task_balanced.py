"""An equal part of the buffer for each task, chosen at the tasks' ends."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from perdure.buffers.policy import Held, Offer, TaskPolicy
from perdure.buffers.quotas import share
from perdure.buffers.sampling import Uniforms


class TaskBalanced(TaskPolicy):
    """⌊B / t⌋ random examples of each of the t tasks so far; what is left over stays empty.

    An earlier task shrinks by dropping its last examples, which are in random order: what it keeps
    is a random subset (the memory of FDR in the code of Buzzega et al. 2020).

    Args:
        size: capacity in examples, B.
        batch_size: examples that a replay draw takes.
        n_tasks: of the benchmark, each of which has one place at least.
    """

    name: ClassVar[str] = "task-balanced"

    def __init__(self, size: int, batch_size: int, n_tasks: int) -> None:
        super().__init__(size, batch_size)
        share(size, None, n_tasks, "tasks")

    def choose(self, held: Held, offer: Offer, uniforms: Uniforms) -> tuple[np.ndarray, np.ndarray]:
        earlier = [task for task in np.unique(held.tasks).tolist() if task != offer.task]
        places = share(self.size, None, len(earlier) + 1, "tasks")
        # In the order of the slots; of the offer's own task what was stored in it before stays.
        parts = [np.flatnonzero(held.tasks == task)[:places] for task in [*earlier, offer.task]]
        kept = np.sort(np.concatenate(parts))
        rows = np.argsort(uniforms.random(len(offer)), kind="stable")
        return kept, rows[: places - len(parts[-1])]
