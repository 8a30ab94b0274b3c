"""Class-balancing reservoir sampling (CBRS): as many examples of each class as possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from perdure.buffers.base import Buffer, Placement


class ClassBalancedReservoir(Buffer):
    """CBRS (Chrysakis & Moens 2020, "Online continual learning from imbalanced data", Alg. 1).

    A class that was once the largest in a full buffer is *full* from then on. An example of a
    class that is not full replaces a random one of a largest class. One of a full class c is kept
    with probability m_c / n_c (stored / seen of c) and replaces a random one of its own class, so
    that each class is a uniform sample of its stream.
    """

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size)
        self._slots: dict[int, list[int]] = {}
        self._seen_of: dict[int, int] = {}
        self._full: set[int] = set()

    def place(self, labels: np.ndarray, generator: np.random.Generator) -> Placement:
        keep, pick = generator.random((2, len(labels)))
        order = self._count(labels)
        placed: dict[int, int] = {}
        for row in self._candidates(labels, order, keep):
            slot = self._slot_for(int(labels[row]), int(order[row]), keep[row], pick[row])
            if slot is not None:
                placed[slot] = row
        return list(placed.values()), list(placed.keys())

    def _count(self, labels: np.ndarray) -> np.ndarray:
        """For each row, how many of its class have been seen, itself included; int64 [B]."""
        by_class = np.argsort(labels, kind="stable")
        _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
        order = np.empty(len(labels), dtype=np.int64)
        order[by_class] = np.arange(len(labels)) - np.repeat(first, counts) + 1
        for start, count in zip(first.tolist(), counts.tolist(), strict=True):
            c = int(labels[by_class[start]])
            before = self._seen_of.get(c, 0)
            order[by_class[start : start + count]] += before
            self._seen_of[c] = before + count
        return order

    def _candidates(self, labels: np.ndarray, order: np.ndarray, keep: np.ndarray) -> list[int]:
        """Rows that may be stored; a full class's m_c never grows, so the others surely are not."""
        stored = np.full(int(labels.max()) + 1, np.inf)
        for c in self._full:
            if c < len(stored):
                stored[c] = len(self._slots[c])
        return list(map(int, np.flatnonzero(keep * order <= stored[labels])))

    def _slot_for(self, c: int, n_c: int, keep: float, pick: float) -> int | None:
        """The slot that an example of class `c` takes, or None."""
        own = self._slots.setdefault(c, [])
        occupied = sum(map(len, self._slots.values()))
        if occupied < self.size:
            own.append(occupied)
            return occupied
        largest = max(map(len, self._slots.values()))
        self._full.update(k for k, slots in self._slots.items() if len(slots) == largest)
        if c in self._full:
            return own[int(pick * len(own))] if keep * n_c <= len(own) and own else None
        replaceable = [
            slot for slots in self._slots.values() if len(slots) == largest for slot in slots
        ]
        slot = replaceable[int(pick * len(replaceable))]
        next(slots for slots in self._slots.values() if slot in slots).remove(slot)
        own.append(slot)
        return slot

    def adopt(
        self,
        state: dict[str, Any],
        generator: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        """As of every buffer; a reservoir's share of a class tells how many were seen of it."""
        super().adopt(state, generator, device)
        held = max(1, sum(self._seen_of.values()))
        estimates = {c: round(n * state["seen"] / held) for c, n in self._seen_of.items()}
        self._seen_of = dict(state.get("seen_of", estimates))

    def state_dict(self) -> dict[str, Any]:
        policy = {
            "slots": {c: list(slots) for c, slots in self._slots.items()},
            "seen_of": dict(self._seen_of),
            "full": sorted(self._full),
        }
        return {**super().state_dict(), **policy}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        super().load_state_dict(state, device)
        self._slots = {c: list(slots) for c, slots in state["slots"].items()}
        self._seen_of = dict(state["seen_of"])
        self._full = set(state["full"])
