"""Ring buffers (FIFO, first in first out): the last examples of each class, or of each task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.quotas import capacity, occurrences, share
from perdure.buffers.sampling import Uniforms
from perdure.errors import UserError


class Ring(StepPolicy):
    """The last `quota` examples of each of `n` groups; what `n` leaves over stays empty.

    Example number i of a group takes the place i mod quota of its ring.
    """

    numbers_per_example: ClassVar[int] = 0
    groups: ClassVar[str]
    """What the groups are, for messages."""

    def __init__(self, size: int, batch_size: int, n: int, quota: int | None = None) -> None:
        super().__init__(size, batch_size)
        self.n = n
        self.quota = share(size, quota, n, self.groups)
        self._rings: dict[int, list[int]] = {}
        self._seen_of: dict[int, int] = {}

    @abstractmethod
    def group_of(self, offer: Offer) -> np.ndarray:
        """The group of each example, int64 [B]."""

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        groups = self.group_of(offer)
        numbers = occurrences(groups, self._seen_of) - 1
        if len(self._seen_of) > self.n:
            raise UserError(
                f"buffer={self.name}: the buffer is divided among {self.n} {self.groups}, and "
                f"examples of {len(self._seen_of)} have come"
            )
        kinds, of_row = np.unique(groups, return_inverse=True)
        totals = np.array([self._seen_of[group] for group in kinds.tolist()])[of_row]
        rows = np.flatnonzero(numbers >= totals - self.quota)
        places = zip(groups[rows].tolist(), (numbers[rows] % self.quota).tolist(), strict=True)
        return rows.tolist(), [self._slot(group, place) for group, place in places]

    def _slot(self, group: int, place: int) -> int:
        """The slot of a place in a ring, which grows to it: all places before it are taken too."""
        ring = self._rings.setdefault(group, [])
        while len(ring) <= place:
            ring.append(sum(map(len, self._rings.values())))
        return ring[place]

    def state_dict(self) -> dict[str, Any]:
        rings = {group: list(ring) for group, ring in self._rings.items()}
        return {"quota": self.quota, "rings": rings, "seen_of": dict(self._seen_of)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._rings = {group: list(ring) for group, ring in state["rings"].items()}
        self._seen_of = dict(state["seen_of"])

    def fits(self, state: Mapping[str, Any]) -> bool:
        return super().fits(state) and bool(state.get("quota") == self.quota)

    def order_of(self, state: Mapping[str, Any]) -> list[int] | None:
        if "rings" not in state:
            return None
        order: list[int] = []
        for group, ring in state["rings"].items():
            oldest = state["seen_of"][group] % len(ring)
            order += [*ring[oldest:], *ring[:oldest]]
        return order


class ClassRing(Ring):
    """The last examples of each class (Chaudhry et al. 2019, "On tiny episodic memories", ring).

    Args:
        size: capacity in examples, B; each class has ⌊B / n_classes⌋ places.
        batch_size: examples that a replay draw takes.
        n_classes: of the benchmark.
        per_class: places of each class; the capacity is this for each of the `n_classes` then.
    """

    name: ClassVar[str] = "ring-class"
    groups: ClassVar[str] = "classes"

    def __init__(
        self, size: int, batch_size: int, n_classes: int, per_class: int | None = None
    ) -> None:
        super().__init__(capacity(size, per_class, n_classes), batch_size, n_classes, per_class)

    def group_of(self, offer: Offer) -> np.ndarray:
        return offer.labels


class TaskRing(Ring):
    """The last examples of each task, as GEM keeps them (Lopez-Paz & Ranzato 2017, section 3).

    Args:
        size: capacity in examples, B; each task has ⌊B / n_tasks⌋ places.
        batch_size: examples that a replay draw takes.
        n_tasks: of the benchmark.
    """

    name: ClassVar[str] = "ring-task"
    uses_tasks: ClassVar[bool] = True
    groups: ClassVar[str] = "tasks"

    def __init__(self, size: int, batch_size: int, n_tasks: int) -> None:
        super().__init__(size, batch_size, n_tasks)

    def group_of(self, offer: Offer) -> np.ndarray:
        return np.full(len(offer), offer.task, dtype=np.int64)
