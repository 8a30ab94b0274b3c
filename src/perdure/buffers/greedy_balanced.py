"""Greedy balancing sampler of GDumb: a class is stored until it has its share of the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from perdure.buffers.class_slots import ClassSlots
from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.quotas import capacity
from perdure.buffers.sampling import Uniforms


class GreedyBalanced(StepPolicy):
    """GDumb's sampler (Prabhu, Torr & Dokania 2020, Alg. 1).

    An example of class y is stored where y is new, or has fewer than k = B / |Y| examples, Y being
    the classes that came before it; in a full buffer it replaces a random one of a largest class.
    k is no integer in general, so that no place stays empty and counts differ by one at most. With
    `per_class` k is fixed. An example costs the same whatever the buffer's size.

    Args:
        size: capacity in examples, B.
        batch_size: examples that a replay draw takes.
        per_class: places of each class; the capacity is this for each of the `n_classes` then.
        n_classes: of the benchmark.
    """

    name: ClassVar[str] = "greedy-balanced"

    def __init__(
        self,
        size: int,
        batch_size: int,
        per_class: int | None = None,
        n_classes: int | None = None,
    ) -> None:
        super().__init__(capacity(size, per_class, n_classes), batch_size)
        self.per_class = per_class
        self._slots = ClassSlots()

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        picks = uniforms.random(len(offer)).tolist()
        slots, placed = self._slots, dict[int, int]()
        for row, c in enumerate(offer.labels.tolist()):
            if not self._wants(c):
                continue
            slots.know(c)
            free = slots.occupied < self.size
            slot = slots.append(c) if free else slots.take_from_largest(c, picks[row])
            placed[slot] = row
        return list(placed.values()), list(placed.keys())

    def _wants(self, c: int) -> bool:
        own = self._slots.of.get(c)
        return own is None or len(own) < (self.per_class or self.size / len(self._slots.of))

    def state_dict(self) -> dict[str, Any]:
        return self._slots.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._slots = ClassSlots(state["slots"], state["order"])
