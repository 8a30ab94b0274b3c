"""Which slots of the buffer the replay draws of a step take, chosen on the host.

A further optimizer step on the same batch (`at["update"]` of 1 or more) has numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.sampling import subsets
from perdure.models.replay import Replay
from perdure.randomness import Streams
from perdure.training.draws import BLOCK, At, BlockStream


def purpose(at: At) -> str:
    """The key of the numbers of an update; the first one's has no number."""
    update = at.get("update", 0)
    return f"replay/{update}" if update else "replay"


def without_update(at: At) -> dict[str, int]:
    """The position of the step that the update belongs to."""
    return {key: value for key, value in at.items() if key != "update"}


class UniformSlots:
    """The slots of `replays` uniform draws of equal size.

    Args:
        buffer: the buffer.
        streams: the run's random streams.
        purpose: part of the key of the numbers.
        replays: how many draws.
        part: this rank's number, where each has streams of its own.
    """

    def __init__(
        self, buffer: Buffer, streams: Streams, purpose: str, replays: int, part: int
    ) -> None:
        self._buffer = buffer
        self._draws = BlockStream(streams, purpose, replays * buffer.batch_size, part)
        self._slots: Sequence[Tensor] = ()
        self._chosen: tuple[Any, ...] = ()

    def at(self, n: int, at: At) -> Tensor:
        """The slots of all draws of this step, int64 [replays · n] on the buffer's device.

        They are chosen for a block of steps, as long as the buffer holds as many examples, and
        reach the device in one copy.
        """
        block, held = self._draws.block(at), len(self._buffer)
        # By identity, and kept alive here: a new block is another array.
        if not self._chosen or self._chosen[0] is not block or self._chosen[1:] != (n, held):
            width = self._buffer.batch_size
            uniforms = block.reshape(-1, width)[:, :n]
            slots = subsets(uniforms, held).reshape(len(block), -1)
            device = self._buffer.device
            self._slots = torch.from_numpy(slots).to(device, non_blocking=True).unbind()
            self._chosen = (block, n, held)
        return self._slots[at.get("step", 0) % BLOCK]


class DrawnSlots:
    """The slots of draws that a method describes one by one, as `Replay` objects.

    Args:
        buffer: the buffer, which tracks tasks where a draw is by task or class.
        streams: the run's random streams.
        draws: the draws.
    """

    def __init__(self, buffer: Buffer, streams: Streams, draws: Sequence[Replay]) -> None:
        self._buffer = buffer
        self._streams = streams
        self._draws = draws
        self._groups: dict[str, tuple[tuple[int, int], list[np.ndarray]]] = {}

    def at(self, at: At) -> list[np.ndarray]:
        """The slots of each draw of this step, int64 [n] each."""
        key, place = purpose(at), without_update(at)
        found: list[np.ndarray] = []
        for number, draw in enumerate(self._draws):
            generator = self._streams.numpy(key, **place, part=number)
            if draw.by == "uniform":
                pools = [np.arange(len(self._buffer))]
            else:
                pools = self._pools(draw.by, at.get("task", 0))
            found += [pool[self._chosen(draw, len(pool), generator.random)] for pool in pools]
        return found

    def _chosen(
        self, draw: Replay, held: int, random: Callable[[tuple[int, int]], np.ndarray]
    ) -> np.ndarray:
        if draw.size == "all":
            return np.arange(held)
        n = min(draw.size or self._buffer.batch_size, held)
        chosen: np.ndarray = subsets(random((1, n)), held)[0]
        return chosen

    def _pools(self, by: str, task: int) -> list[np.ndarray]:
        """The slots of each task before `task`, or of each class, that the memory has examples of.

        They are found anew when the memory has changed.
        """
        key = (self._buffer.changes, task)
        if self._groups.get(by, ((-1, -1),))[0] != key:
            held = self._buffer.on_host
            groups = held.labels if by == "class" else held.tasks
            order = np.argsort(groups, kind="stable")
            if by == "task":
                order = order[: np.searchsorted(groups[order], task)]
            cuts = np.flatnonzero(np.diff(groups[order])) + 1
            pools = [part for part in np.split(order, cuts) if len(part)]
            self._groups[by] = (key, pools)
        return self._groups[by][1]


def gathered(buffer: Buffer, slots: Sequence[np.ndarray]) -> list[dict[str, Tensor]]:
    """The fields of each draw, with its slots as `index`; one copy to the device for all."""
    index = torch.from_numpy(np.concatenate(slots)).to(buffer.device, non_blocking=True)
    fields = {**buffer.select(index), "index": index}
    ends = [0, *np.cumsum([len(each) for each in slots]).tolist()]
    return [
        {key: value[start:stop] for key, value in fields.items()} for start, stop in pairwise(ends)
    ]
