"""Experience replay: draws from the buffer, replicated on every rank or split between the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.randomness import Streams
from perdure.ranks.shards import bounds, of_rank


@dataclass(slots=True)
class ReplayDraw:
    """This rank's examples of one replay draw.

    Attributes:
        fields: tensors [n, …], at least `raw` and `y`.
        total: number of examples of the draw on all ranks together.
        first: how many of these are on the ranks before this one, where each has a part.
    """

    fields: dict[str, Tensor]
    total: int
    first: int = 0


class Replicated:
    """Every rank keeps the whole buffer and makes the same decisions.

    All ranks see the same examples and draw from the same streams, so that the copies stay equal
    without any exchange. Draws and slots are chosen on the host, from NumPy generators: a choice
    made on the device would have to be read back, and each read waits for the queued kernels.

    Args:
        buffer: the buffer.
        method: its `replays` is the number of draws a step.
        streams: the run's random streams.
    """

    def __init__(self, buffer: Buffer, method: Method, streams: Streams) -> None:
        self.buffer = buffer
        self.method = method
        self.streams = streams

    def draw(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> list[ReplayDraw]:
        """The step's independent draws; empty ones like `raw` and `y` while the buffer is empty."""
        if not len(self.buffer):
            return [ReplayDraw({"raw": raw[:0], "y": y[:0]}, 0)] * self.method.replays
        draws = []
        for draw in range(self.method.replays):
            generator = self.streams.numpy("replay", **at, part=draw)
            fields = self.buffer.draw(self.buffer.batch_size, generator)
            draws.append(ReplayDraw(fields, len(fields["y"])))
        return draws

    def add(
        self,
        fields: dict[str, Tensor],
        stored: dict[str, Tensor],
        labels: np.ndarray,
        at: dict[str, int],
    ) -> None:
        """Offer the global batch to the buffer.

        Args:
            fields: `raw` and `y` of all its examples.
            stored: the method's `stored_fields` of them.
            labels: `y` on the host.
            at: the position, which keys the random decisions.
        """
        self.buffer.add({**fields, **stored}, labels, self.streams.numpy("remember", **at))

    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore a `state_dict()`.

        Raises:
            UserError: the state is that of buffers in parts.
        """
        if "parts" in state:
            raise UserError(
                "training.replay_sync=replicated: the checkpoint's buffer is in "
                f"{len(state['parts'])} parts, of training.replay_sync=local"
            )
        self.buffer.load_state_dict(state, device)


class Local(Replicated):
    """Each of N ranks keeps size/N examples of those that it trained on, and draws from them.

    So no rank holds all, and stored fields are not exchanged. An example has the same chance to be
    kept as in one buffer, but which ones are kept depends on N: runs at different world sizes
    agree in their statistics, not in their bits.

    Args:
        buffer: this rank's; its `size` is cut down to the rank's part.
        method: its `replays` is the number of draws a step.
        streams: the run's random streams.
        ranks: keep a part each.
        shards: logical shards of a batch.
    """

    def __init__(
        self, buffer: Buffer, method: Method, streams: Streams, ranks: Ranks, shards: int
    ) -> None:
        super().__init__(buffer, method, streams)
        if buffer.size < ranks.size:
            raise UserError(
                f"buffer.size={buffer.size} with training.replay_sync=local: must be at least one "
                f"for each of the {ranks.size} processes"
            )
        self.ranks = ranks
        self.shards = shards
        self._sizes = [stop - start for start, stop in bounds(buffer.size, ranks.size)]
        self._seen = [0] * ranks.size
        buffer.size = self._sizes[ranks.rank]

    def draw(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> list[ReplayDraw]:
        """This rank's part of each draw."""
        shares = [stop - start for start, stop in bounds(self.buffer.batch_size, self.ranks.size)]
        # Every mean divides by the global number of examples, so a rank must know how many the
        # others draw. It counts instead of asking: a buffer holds what it has seen up to its size,
        # and what each rank sees follows from the split. An exchange would wait for the device.
        drawn = [min(*three) for three in zip(shares, self._seen, self._sizes, strict=True)]
        rank, total = self.ranks.rank, sum(drawn)
        first, n = sum(drawn[:rank]), drawn[rank]
        draws = []
        for draw in range(self.method.replays):
            part = draw + self.method.replays * rank
            generator = self.streams.numpy("replay", **at, part=part)
            empty = {"raw": raw[:0], "y": y[:0]}
            fields = self.buffer.draw(n, generator) if n else self._like_a_draw(empty)
            draws.append(ReplayDraw(fields, total, first))
        return draws

    def _like_a_draw(self, empty: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[:0] for key, value in self.buffer.contents().items()} or empty

    def add(
        self,
        fields: dict[str, Tensor],
        stored: dict[str, Tensor],
        labels: np.ndarray,
        at: dict[str, int],
    ) -> None:
        """Offer this rank's part of the global batch to its buffer; `stored` is of that part."""
        cuts = bounds(len(labels), self.shards)
        for rank in range(self.ranks.size):
            own = of_rank(rank, self.ranks.size, self.shards)
            start, stop = cuts[own[0]][0], cuts[own[-1]][1]
            self._seen[rank] += stop - start
            if rank == self.ranks.rank:
                part = {key: value[start:stop] for key, value in fields.items()}
                generator = self.streams.numpy("remember", **at, part=rank)
                self.buffer.add({**part, **stored}, labels[start:stop], generator)

    def state_dict(self) -> dict[str, Any]:
        """All ranks' parts, on rank 0; the others' is empty."""
        state = self.buffer.state_dict()
        state["fields"] = {key: value.cpu() for key, value in state["fields"].items()}
        parts = self.ranks.gather_objects(state)
        return {} if parts is None else {"parts": parts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore a `state_dict()` of as many ranks.

        Raises:
            UserError: it is of another number of ranks, or of a replicated buffer.
        """
        parts = state.get("parts", [])
        if len(parts) != self.ranks.size:
            found = f"in {len(parts)} parts" if parts else "whole"
            raise UserError(
                f"training.replay_sync=local on {self.ranks.size} processes: the checkpoint's "
                f"buffer is {found}; start {len(parts) or 'it with replay_sync=replicated on 1'} "
                "of them"
            )
        self._seen = [part["seen"] for part in parts]
        self.buffer.load_state_dict(parts[self.ranks.rank], device)
