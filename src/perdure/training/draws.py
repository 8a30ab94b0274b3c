"""Random numbers of the training step, drawn for a block of steps at once.

Moving a generator and drawing from it costs more than the few numbers that a step needs. So they
are drawn for `BLOCK` steps together, keyed by (seed, purpose, task, epoch, block): a resumed run
draws its block again and continues in the middle of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perdure.randomness import Streams

BLOCK = 64
"""Steps whose numbers are drawn together. Another value changes the numbers of every run."""

VERSION = 2
"""Number of the scheme by which a run's random draws are made; a checkpoint holds it.

1 was a generator a step; 2 has blocks.
"""

At = Mapping[str, int]
"""A position: task, epoch, step and update; 0 where one is missing."""


class Numbers:
    """The uniform numbers of one purpose at one step; `random` gives them from the first on."""

    __slots__ = ("_at", "_row", "_streams")

    def __init__(self, row: np.ndarray, streams: BlockStream, at: At) -> None:
        self._row = row
        self._streams = streams
        self._at = at

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        """float64 [size] in [0, 1); the same ones at every call."""
        n = size if isinstance(size, int) else int(np.prod(size))
        row = self._row if n <= len(self._row) else self._streams.beyond(n, self._at)
        return row[:n].reshape(size)


class BlockStream:
    """A stream of `width` uniform numbers a step.

    Args:
        streams: the run's random streams.
        purpose: part of the key.
        width: numbers that a step usually needs; more are a draw of their own.
        part: distinguishes streams of one purpose: draws, shards, ranks.
    """

    def __init__(self, streams: Streams, purpose: str, width: int, part: int = 0) -> None:
        self._streams = streams
        self._purpose = purpose
        self._width = width
        self._part = part
        self._key: tuple[int, int, int] | None = None
        self._block = np.empty((0, 0))

    def block(self, at: At) -> np.ndarray:
        """The numbers of all steps of the block around a position, float64 [BLOCK, width]."""
        key = (at.get("task", 0), at.get("epoch", 0), at.get("step", 0) // BLOCK)
        if key != self._key:
            task, epoch, step = key
            generator = self._streams.numpy(
                self._purpose, task=task, epoch=epoch, step=step, part=2 * self._part
            )
            self._block, self._key = generator.random((BLOCK, self._width)), key
        return self._block

    def at(self, at: At) -> Numbers:
        """The numbers of one step."""
        return Numbers(self.block(at)[at.get("step", 0) % BLOCK], self, at)

    def beyond(self, n: int, at: At) -> np.ndarray:
        """More numbers than `width` for one step, or those of one update of it; float64 [n]."""
        place = {key: number for key, number in at.items() if key != "update"}
        part = (at.get("update", 0) << 32) + 2 * self._part + 1
        return self._streams.numpy(self._purpose, **place, part=part).random(n)
