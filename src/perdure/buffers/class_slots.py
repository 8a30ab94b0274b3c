"""Which slots of a buffer each class has, and which classes are the largest, at O(1) an example.

Each class has a list of its slots, classes of one length are in one list, and both lists close a
gap with their last entry. So nothing depends on the buffer's size or the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class ClassSlots:
    """The slots of each class, in a buffer whose slots are taken one after another.

    Attributes:
        of: the slots by class; a class that has lost all of them keeps an empty list.
        occupied: how many slots are taken.
        largest: how many the largest class has.
    """

    def __init__(
        self, slots: Mapping[int, Sequence[int]] | None = None, order: Iterable[int] = ()
    ) -> None:
        self.of = {c: list(own) for c, own in (slots or {}).items()}
        self.occupied = sum(map(len, self.of.values()))
        self.largest = max(map(len, self.of.values()), default=0)
        self._of_length: dict[int, list[int]] = {}
        self._place_of: dict[int, int] = {}
        for c in order:
            self._enter(c)

    @property
    def largest_classes(self) -> list[int]:
        """The classes that have the most slots."""
        return self._of_length.get(self.largest, [])

    def know(self, c: int) -> None:
        """Class `c` has come; it has no slot yet."""
        if c not in self.of:
            self.of[c] = []
            self._enter(c)

    def append(self, c: int) -> int:
        """Give the next free slot to class `c`."""
        slot = self.occupied
        self.occupied += 1
        self._give(c, slot)
        self.largest = max(self.largest, len(self.of[c]))
        return slot

    def take_from_largest(self, c: int, pick: float) -> int:
        """Move a random slot of a largest class to class `c`, which is not one of these.

        Args:
            c: the class that gets it.
            pick: uniform in [0, 1); all slots of all largest classes are as likely.
        """
        largest = self._of_length[self.largest]
        number, i = divmod(int(pick * len(largest) * self.largest), self.largest)
        slot = self._take(largest[number], i)
        self._give(c, slot)
        if not self._of_length[self.largest]:
            self.largest -= 1
        return slot

    def state_dict(self) -> dict[str, Any]:
        """`slots` and `order`, the arguments of an equal object."""
        return {
            "slots": {c: list(slots) for c, slots in self.of.items()},
            # By length: the dictionary's own order tells of lengths that are gone.
            "order": [c for _, alike in sorted(self._of_length.items()) for c in alike],
        }

    def _take(self, c: int, i: int) -> int:
        """Remove the i-th slot of class `c`; the last one takes its place."""
        self._leave(c)
        own = self.of[c]
        slot, own[i] = own[i], own[-1]
        own.pop()
        self._enter(c)
        return slot

    def _give(self, c: int, slot: int) -> None:
        self._leave(c)
        self.of[c].append(slot)
        self._enter(c)

    def _enter(self, c: int) -> None:
        """Put class `c` into the list of those of its length."""
        alike = self._of_length.setdefault(len(self.of[c]), [])
        self._place_of[c] = len(alike)
        alike.append(c)

    def _leave(self, c: int) -> None:
        """Remove class `c` from the list of those of its length; the last one takes its place."""
        alike = self._of_length[len(self.of[c])]
        last = alike.pop()
        if last != c:
            alike[self._place_of[c]] = last
            self._place_of[last] = self._place_of[c]
