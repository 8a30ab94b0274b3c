"""Exemplar sets of classes, chosen at a task's end: places of a class, shrinking by the tail.

What `herding` and `random_exemplars` share; these say which examples of a class are chosen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from perdure.buffers.policy import Held, Offer, TaskPolicy
from perdure.buffers.quotas import capacity, share
from perdure.buffers.sampling import Uniforms

Group = tuple[int, int]
"""A class, and a task in which it was offered."""


class Exemplars(TaskPolicy):
    """A ranked exemplar set for each class seen; a class shrinks by dropping its last ones.

    A class that comes in several tasks, as in a domain-incremental benchmark, has a set for each
    of them, and these share its places alike, what is left over going to the newest.

    Args:
        size: capacity in examples, B.
        batch_size: examples that a replay draw takes.
        per_class: places of each class; the capacity is this for each of the `n_classes` then.
        n_classes: of the benchmark; None where it is not known.

    Raises:
        UserError: there are fewer places than classes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        per_class: int | None = None,
        n_classes: int | None = None,
    ) -> None:
        super().__init__(capacity(size, per_class, n_classes), batch_size)
        self.per_class = per_class
        share(self.size, per_class, n_classes or 1)

    @abstractmethod
    def pick(
        self, offer: Offer, wanted: Sequence[tuple[np.ndarray, int]], uniforms: Uniforms
    ) -> list[np.ndarray]:
        """The best rows of each class offered, best first.

        Args:
            offer: all examples of the task.
            wanted: for each class its rows, int64 [n] ascending, and how many of them to choose;
                where there are fewer, all of them.
            uniforms: gives `numbers_per_example` numbers for each row of the offer.
        """

    def places(self, rank: int, n_classes: int) -> int:
        """Places of the class of this rank among those seen, which are in ascending order.

        It may only fall as classes come.
        """
        return share(self.size, self.per_class, n_classes)

    def choose(self, held: Held, offer: Offer, uniforms: Uniforms) -> tuple[np.ndarray, np.ndarray]:
        old = _groups(held.labels, held.tasks)
        new = _groups(offer.labels, np.full(len(offer), offer.task))
        places = self._places_of({*old, *new})
        kept = [slots[: places[group]] for group, slots in old.items()]
        wanted = [
            (rows, max(0, places[group] - len(old.get(group, ())))) for group, rows in new.items()
        ]
        rows = self.pick(offer, wanted, uniforms)
        return np.sort(_joined(kept)), _joined(rows)

    def _places_of(self, groups: set[Group]) -> dict[Group, int]:
        tasks_of: dict[int, list[int]] = {}
        for c, task in sorted(groups):
            tasks_of.setdefault(c, []).append(task)
        found: dict[Group, int] = {}
        for rank, (c, tasks) in enumerate(tasks_of.items()):
            each, left = divmod(self.places(rank, len(tasks_of)), len(tasks))
            for number, task in enumerate(tasks):
                found[c, task] = each + (number >= len(tasks) - left)
        return found


def _groups(labels: np.ndarray, tasks: np.ndarray) -> dict[Group, np.ndarray]:
    """The rows of each class of each task, int64 [n] ascending."""
    order = np.lexsort((labels, tasks))
    pairs = np.stack((labels, tasks), 1)[order]
    cuts = np.flatnonzero((pairs[1:] != pairs[:-1]).any(1)) + 1
    parts = [part for part in np.split(order, cuts) if len(part)]
    return {(int(labels[part[0]]), int(tasks[part[0]])): part for part in parts}


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])
