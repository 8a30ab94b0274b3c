"""Class-balancing reservoir sampling (CBRS): as many examples of each class as possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from perdure.buffers.class_slots import ClassSlots
from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.quotas import occurrences
from perdure.buffers.sampling import Uniforms


class ClassBalancedReservoir(StepPolicy):
    """CBRS (Chrysakis & Moens 2020, "Online continual learning from imbalanced data", Alg. 1).

    A class that was once the largest in a full buffer is *full* from then on. An example of a
    class that is not full replaces a random one of a largest class. One of a full class c is kept
    with probability m_c / n_c (stored / seen of c) and replaces a random one of its own class, so
    that each class is a uniform sample of its stream.

    An example costs the same whatever the buffer's size and the number of classes.
    """

    name: ClassVar[str] = "class-balanced"
    numbers_per_example: ClassVar[int] = 2
    stays_full: ClassVar[bool] = True

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size)
        self._slots = ClassSlots()
        self._seen_of: dict[int, int] = {}
        self._full: set[int] = set()

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        labels = offer.labels
        keep, pick = uniforms.random((2, len(labels)))
        order = occurrences(labels, self._seen_of)
        placed: dict[int, int] = {}
        for row in self._candidates(labels, order, keep):
            slot = self._slot_for(int(labels[row]), int(order[row]), keep[row], pick[row])
            if slot is not None:
                placed[slot] = row
        return list(placed.values()), list(placed.keys())

    def _candidates(self, labels: np.ndarray, order: np.ndarray, keep: np.ndarray) -> list[int]:
        """Rows that may be stored; a full class's m_c never grows, so the others surely are not."""
        classes, of_row = np.unique(labels, return_inverse=True)
        slots = self._slots.of
        most = [len(slots[c]) if c in self._full else np.inf for c in classes.tolist()]
        return list(map(int, np.flatnonzero(keep * order <= np.array(most)[of_row])))

    def _slot_for(self, c: int, n_c: int, keep: float, pick: float) -> int | None:
        """The slot that an example of class `c` takes, or None."""
        slots = self._slots
        slots.know(c)
        own = slots.of[c]
        if slots.occupied < self.size:
            slot = slots.append(c)
            if slots.occupied == self.size:
                self._full.update(slots.largest_classes)
            return slot
        if c in self._full:
            return own[int(pick * len(own))] if keep * n_c <= len(own) and own else None
        before = slots.largest
        slot = slots.take_from_largest(c, pick)
        if slots.largest < before:
            self._full.update(slots.largest_classes)
        elif len(own) == slots.largest:
            self._full.add(c)
        return slot

    def adopted(self, state: Mapping[str, Any]) -> None:
        """As of every policy; a reservoir's share of a class tells how many were seen of it."""
        super().adopted(state)
        held = max(1, sum(self._seen_of.values()))
        estimates = {c: round(n * state["seen"] / held) for c, n in self._seen_of.items()}
        self._seen_of = dict(state.get("seen_of", estimates))

    def state_dict(self) -> dict[str, Any]:
        counts = {"seen_of": dict(self._seen_of), "full": sorted(self._full)}
        return {**self._slots.state_dict(), **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._slots = ClassSlots(state["slots"], state.get("order", state["slots"]))
        self._seen_of = dict(state["seen_of"])
        self._full = set(state["full"])
