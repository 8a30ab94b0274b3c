"""Random exemplars: as many of each class seen, chosen at a task's end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from perdure.buffers.exemplars import Exemplars
from perdure.buffers.policy import Offer
from perdure.buffers.sampling import Uniforms


class RandomExemplars(Exemplars):
    """Uniformly random exemplars of each class; a class that shrinks keeps a random subset.

    Each of the t classes seen has ⌊B / t⌋ places, and the first B mod t of them one more.
    """

    name: ClassVar[str] = "random"

    def places(self, rank: int, n_classes: int) -> int:
        each = super().places(rank, n_classes)
        left = 0 if self.per_class is not None else self.size % n_classes
        return each + (rank < left)

    def pick(
        self, offer: Offer, wanted: Sequence[tuple[np.ndarray, int]], uniforms: Uniforms
    ) -> list[np.ndarray]:
        u = uniforms.random(len(offer))
        return [rows[np.argsort(u[rows], kind="stable")[:n]] for rows, n in wanted]
