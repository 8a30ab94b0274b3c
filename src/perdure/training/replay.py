"""What a step replays, and who remembers what: every rank everything, or each rank its own part."""

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
class Draw:
    """What a rank holds of one replay draw.

    Attributes:
        fields: tensors [n, …], at least `raw` and `y`.
        total: examples that all ranks together hold of it.
        first: how many of these the ranks before this one hold, where each has a part.
    """

    fields: dict[str, Tensor]
    total: int
    first: int = 0


class Replicated:
    """Every rank keeps the whole buffer and decides alike, from the same examples and streams.

    Args:
        buffer: what is kept.
        method: says how many draws a step takes.
        streams: the run's random streams.
    """

    is_local = False

    def __init__(self, buffer: Buffer, method: Method, streams: Streams) -> None:
        self.buffer = buffer
        self.method = method
        self.streams = streams

    def draw(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> list[Draw]:
        """The step's independent draws; empty ones, like `raw` and `y`, while the buffer is."""
        if not len(self.buffer):
            return [Draw({"raw": raw[:0], "y": y[:0]}, 0)] * self.method.replays
        draws = []
        for draw in range(self.method.replays):
            generator = self.streams.numpy("replay", **at, part=draw)
            fields = self.buffer.draw(self.buffer.batch_size, generator)
            draws.append(Draw(fields, len(fields["y"])))
        return draws

    def add(
        self,
        fields: dict[str, Tensor],
        memory: dict[str, Tensor],
        labels: np.ndarray,
        at: dict[str, int],
    ) -> None:
        """Offer the global batch to the buffer.

        Args:
            fields: `raw` and `y` of all its examples.
            memory: what the method gave to be remembered of them.
            labels: `y` on the host.
            at: the position, key of the decisions.
        """
        self.buffer.add({**fields, **memory}, labels, self.streams.numpy("remember", **at))

    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict()`.

        Raises:
            UserError: it is another kind of buffer's.
        """
        if "parts" in state:
            raise UserError(
                "training.replay_sync=replicated: the checkpoint's buffer is in "
                f"{len(state['parts'])} parts, of training.replay_sync=local"
            )
        self.buffer.load_state_dict(state, device)


class Local(Replicated):
    """Each of N ranks keeps size/N examples of those that it trained on, and draws from them.

    So no rank holds all, and nothing remembered is exchanged. An example has the same chance to
    be kept as in one buffer, but which ones are kept depends on N: runs at different world sizes
    agree in their statistics, not in their bits.

    Args:
        buffer: this rank's; its `size` is cut down to the rank's part.
        method: says how many draws a step takes.
        streams: the run's random streams.
        ranks: who shares.
        shards: logical shards of a batch.
    """

    is_local = True

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

    def draw(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> list[Draw]:
        """This rank's part of each draw."""
        shares = [stop - start for start, stop in bounds(self.buffer.batch_size, self.ranks.size)]
        # A buffer is full once it has seen its size, so every rank knows how many the others hold.
        held = [min(*three) for three in zip(shares, self._seen, self._sizes, strict=True)]
        rank, total = self.ranks.rank, sum(held)
        first, mine = sum(held[:rank]), held[rank]
        draws = []
        for draw in range(self.method.replays):
            part = draw + self.method.replays * rank
            generator = self.streams.numpy("replay", **at, part=part)
            empty = {"raw": raw[:0], "y": y[:0]}
            fields = self.buffer.draw(mine, generator) if mine else self._like_a_draw(empty)
            draws.append(Draw(fields, total, first))
        return draws

    def _like_a_draw(self, empty: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[:0] for key, value in self.buffer.contents().items()} or empty

    def add(
        self,
        fields: dict[str, Tensor],
        memory: dict[str, Tensor],
        labels: np.ndarray,
        at: dict[str, int],
    ) -> None:
        """Offer this rank's part of the global batch to its buffer; `memory` is of that part."""
        cuts = bounds(len(labels), self.shards)
        for rank in range(self.ranks.size):
            mine = of_rank(rank, self.ranks.size, self.shards)
            start, stop = cuts[mine[0]][0], cuts[mine[-1]][1]
            self._seen[rank] += stop - start
            if rank == self.ranks.rank:
                part = {key: value[start:stop] for key, value in fields.items()}
                generator = self.streams.numpy("remember", **at, part=rank)
                self.buffer.add({**part, **memory}, labels[start:stop], generator)

    def state_dict(self) -> dict[str, Any]:
        """All ranks' parts, on rank 0; the others' is empty."""
        state = self.buffer.state_dict()
        state["fields"] = {key: value.cpu() for key, value in state["fields"].items()}
        parts = self.ranks.collect(state)
        return {} if parts is None else {"parts": parts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict()` of as many ranks.

        Raises:
            UserError: there were more or fewer ranks, or every rank kept everything.
        """
        parts = state.get("parts", [])
        if len(parts) != self.ranks.size:
            held = f"in {len(parts)} parts" if parts else "whole"
            raise UserError(
                f"training.replay_sync=local on {self.ranks.size} processes: the checkpoint's "
                f"buffer is {held}; start {len(parts) or 'it with replay_sync=replicated on 1'} "
                "of them"
            )
        self._seen = [part["seen"] for part in parts]
        self.buffer.load_state_dict(parts[self.ranks.rank], device)
