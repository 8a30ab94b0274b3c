"""Class-balancing reservoir sampling (CBRS): as many examples of each class as possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch

from perdure.buffers.base import Buffer, Placement
from perdure.buffers.sampling import Uniforms


class ClassBalancedReservoir(Buffer):
    """CBRS (Chrysakis & Moens 2020, "Online continual learning from imbalanced data", Alg. 1).

    A class that was once the largest in a full buffer is *full* from then on. An example of a
    class that is not full replaces a random one of a largest class. One of a full class c is kept
    with probability m_c / n_c (stored / seen of c) and replaces a random one of its own class, so
    that each class is a uniform sample of its stream.

    An example costs the same whatever the buffer's size and the number of classes: each class has
    a list of its slots, classes of one length are in one list, and both lists close a gap with
    their last entry.
    """

    numbers_per_example: ClassVar[int] = 2

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size)
        self._seen_of: dict[int, int] = {}
        self._full: set[int] = set()
        self._use({}, ())

    def _use(self, slots: dict[int, list[int]], order: Iterable[int]) -> None:
        """Take over each class's slots; `order` is that of the classes of one length."""
        self._slots = {c: list(own) for c, own in slots.items()}
        self._occupied = sum(map(len, self._slots.values()))
        self._of_length: dict[int, list[int]] = {}
        self._place_of: dict[int, int] = {}
        for c in order:
            self._enter(c)
        self._largest = max(map(len, self._slots.values()), default=0)

    def place(self, labels: np.ndarray, uniforms: Uniforms) -> Placement:
        keep, pick = uniforms.random((2, len(labels)))
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
        classes, of_row = np.unique(labels, return_inverse=True)
        most = [len(self._slots[c]) if c in self._full else np.inf for c in classes.tolist()]
        return list(map(int, np.flatnonzero(keep * order <= np.array(most)[of_row])))

    def _slot_for(self, c: int, n_c: int, keep: float, pick: float) -> int | None:
        """The slot that an example of class `c` takes, or None."""
        if c not in self._slots:
            self._slots[c] = []
            self._enter(c)
        own = self._slots[c]
        if self._occupied < self.size:
            self._occupied += 1
            self._resize(c, self._occupied - 1)
            self._largest = max(self._largest, len(own))
            if self._occupied == self.size:
                self._full.update(self._of_length[self._largest])
            return self._occupied - 1
        if c in self._full:
            return own[int(pick * len(own))] if keep * n_c <= len(own) and own else None
        largest = self._of_length[self._largest]
        number, i = divmod(int(pick * len(largest) * self._largest), self._largest)
        slot = self._take(largest[number], i)
        self._resize(c, slot)
        self._find_largest(c)
        return slot

    def _find_largest(self, grown: int) -> None:
        """After one of the largest classes gave a slot to `grown`."""
        if not self._of_length[self._largest]:
            self._largest -= 1
            self._full.update(self._of_length[self._largest])
        elif len(self._slots[grown]) == self._largest:
            self._full.add(grown)

    def _take(self, c: int, i: int) -> int:
        """Remove the i-th slot of class `c`; the last one takes its place."""
        self._leave(c)
        own = self._slots[c]
        slot, own[i] = own[i], own[-1]
        own.pop()
        self._enter(c)
        return slot

    def _resize(self, c: int, slot: int) -> None:
        """Give `slot` to class `c`."""
        self._leave(c)
        self._slots[c].append(slot)
        self._enter(c)

    def _enter(self, c: int) -> None:
        """Put class `c` into the list of those of its length."""
        alike = self._of_length.setdefault(len(self._slots[c]), [])
        self._place_of[c] = len(alike)
        alike.append(c)

    def _leave(self, c: int) -> None:
        """Remove class `c` from the list of those of its length; the last one takes its place."""
        alike = self._of_length[len(self._slots[c])]
        last = alike.pop()
        if last != c:
            alike[self._place_of[c]] = last
            self._place_of[last] = self._place_of[c]

    def adopt(
        self,
        state: dict[str, Any],
        uniforms: Uniforms,
        device: torch.device | str = "cpu",
    ) -> None:
        """As of every buffer; a reservoir's share of a class tells how many were seen of it."""
        super().adopt(state, uniforms, device)
        held = max(1, sum(self._seen_of.values()))
        estimates = {c: round(n * state["seen"] / held) for c, n in self._seen_of.items()}
        self._seen_of = dict(state.get("seen_of", estimates))

    def state_dict(self) -> dict[str, Any]:
        policy = {
            "slots": {c: list(slots) for c, slots in self._slots.items()},
            # By length: the dictionary's own order tells of lengths that are gone.
            "order": [c for _, alike in sorted(self._of_length.items()) for c in alike],
            "seen_of": dict(self._seen_of),
            "full": sorted(self._full),
        }
        return {**super().state_dict(), **policy}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        super().load_state_dict(state, device)
        self._use(state["slots"], state.get("order", state["slots"]))
        self._seen_of = dict(state["seen_of"])
        self._full = set(state["full"])
