"""Experience replay: draws from the buffer, replicated on every rank or split between the ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.policy import Policy
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.models.replay import draws_by_group, method_draws
from perdure.randomness import Streams
from perdure.ranks.shards import bounds, of_rank
from perdure.training.draws import At, BlockStream
from perdure.training.replay_slots import (
    DrawnSlots,
    UniformSlots,
    gathered,
    purpose,
    without_update,
)


def stores_each_step(method: Method, buffer: Buffer | None) -> bool:
    """Whether examples are offered to the buffer at each step, not at a task's end.

    The policy decides where the method leaves it open.
    """
    if buffer is None or method.store_at == "task":
        return False
    return not buffer.policy.at_task_end


@dataclass(slots=True)
class ReplayDraw:
    """This rank's examples of one replay draw.

    Attributes:
        fields: tensors [n, …], at least `raw` and `y`; the dict is the caller's to change.
        total: number of examples of the draw on all ranks together.
        first: how many of these are on the ranks before this one, where each has a part.
    """

    fields: dict[str, Tensor]
    total: int
    first: int = 0


class Replicated:
    """Every rank keeps the whole buffer and makes the same decisions.

    All ranks see the same examples and draw from the same streams, so that the copies stay equal
    without any exchange. Draws and slots are chosen on the host: a choice made on the device would
    have to be read back, and each read waits for the queued kernels.

    Args:
        buffer: the buffer.
        method: its `replays` are the draws of a step.
        streams: the run's random streams.
        batch_size: examples that a step offers.
        part: this rank's number, where each has streams of its own.
    """

    def __init__(
        self, buffer: Buffer, method: Method, streams: Streams, batch_size: int, part: int = 0
    ) -> None:
        self.buffer = buffer
        self.method = method
        self.streams = streams
        self._part = part
        if "task" in method.stored_fields or draws_by_group(method):
            buffer.track_tasks = True
        width = batch_size * buffer.policy.numbers_per_example
        self._offers = BlockStream(streams, "remember", width, part)
        self._uniform: dict[str, UniformSlots] = {}
        self._n_draws = len(method_draws(method))
        self._names_slots = "losses" in buffer.policy.needs
        self._drawn: DrawnSlots | None = None
        if isinstance(method.replays, tuple):
            self._drawn = DrawnSlots(buffer, streams, method.replays)

    @property
    def held(self) -> int:
        """How many examples all processes hold together, each counted once."""
        return len(self.buffer)

    def held_by_class(self, n_classes: int) -> list[int]:
        """How many examples of each label, 0 … n_classes - 1, are held; waits for the device."""
        if not len(self.buffer):
            return [0] * n_classes
        labels = self.buffer.contents()["y"].cpu().numpy()
        counts: list[int] = np.bincount(labels, minlength=n_classes).tolist()
        return counts

    def draw(self, raw: Tensor, y: Tensor, at: At) -> list[ReplayDraw]:
        """The step's draws; empty ones like `raw` and `y` while the buffer is empty.

        Args:
            raw: uint8 [B, C, H, W], the global batch.
            y: int64 [B].
            at: the position, which keys the numbers: task, epoch, step, and `update` where the
                batch is trained on more than once, 0 the first time.
        """
        if not len(self.buffer):
            return self.nothing(raw, y)
        if self._drawn is not None:
            slots = self._drawn.at(at)
            parts = gathered(self.buffer, slots) if slots else []
            return [ReplayDraw(fields, len(fields["y"])) for fields in parts]
        n = min(self.buffer.batch_size, len(self.buffer))
        return [ReplayDraw(fields, n) for fields in self._select(n, at)]

    def nothing(self, raw: Tensor, y: Tensor) -> list[ReplayDraw]:
        """Empty draws like `raw` and `y`; none by task or class, of which there are none yet."""
        draws = [draw for draw in method_draws(self.method) if draw.by == "uniform"]
        return [ReplayDraw({"raw": raw[:0], "y": y[:0]}, 0) for _ in draws]

    def _select(self, n: int, at: At) -> list[dict[str, Tensor]]:
        """The fields of each of the uniform draws of `n` examples, gathered together."""
        replays, key = self._n_draws, purpose(at)
        if key not in self._uniform:
            self._uniform[key] = UniformSlots(self.buffer, self.streams, key, replays, self._part)
        slots = self._uniform[key].at(n, at)
        fields = self.buffer.select(slots)
        if self._names_slots:
            fields["index"] = slots
        if replays == 1:
            return [fields]
        parts = {key: value.split(n) for key, value in fields.items()}
        return [{key: part[k] for key, part in parts.items()} for k in range(replays)]

    def add(
        self,
        fields: dict[str, Tensor],
        stored: dict[str, Tensor],
        labels: np.ndarray,
        at: At,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Offer the global batch to the buffer.

        Args:
            fields: `raw` and `y` of all its examples.
            stored: the method's `stored_fields` of them.
            labels: `y` on the host.
            at: the position, which keys the random decisions.
            info: what the buffer's policy needs of each example, [B, …] each.
        """
        offers = self._offers.at(without_update(at) if "update" in at else at)
        self.buffer.add({**fields, **stored}, labels, offers, at.get("task", 0), info)

    def rewrite(self, slots: Tensor, fields: dict[str, Tensor]) -> None:
        """Replace stored fields of drawn examples; `slots`, int64 [n], are those of the draw."""
        self.buffer.overwrite(slots, fields)

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
        batch_size: examples that a step offers on all ranks together.
        ranks: keep a part each.
        shards: logical shards of a batch.
    """

    def __init__(
        self,
        buffer: Buffer,
        method: Method,
        streams: Streams,
        batch_size: int,
        ranks: Ranks,
        shards: int,
    ) -> None:
        super().__init__(buffer, method, streams, batch_size, ranks.rank)
        _require_countable(buffer.policy, method)
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

    @property
    def held(self) -> int:
        return sum(map(min, self._seen, self._sizes))

    def held_by_class(self, n_classes: int) -> list[int]:
        """Of all ranks together."""
        own = torch.tensor(super().held_by_class(n_classes))
        counts: list[int] = self.ranks.sum_counts(own).tolist()
        return counts

    def draw(self, raw: Tensor, y: Tensor, at: At) -> list[ReplayDraw]:
        """This rank's part of each draw."""
        shares = [stop - start for start, stop in bounds(self.buffer.batch_size, self.ranks.size)]
        # Every mean divides by the global number of examples, so a rank must know how many the
        # others draw. It counts instead of asking: a buffer holds what it has seen up to its size,
        # and what each rank sees follows from the split. An exchange would wait for the device.
        drawn = [min(*three) for three in zip(shares, self._seen, self._sizes, strict=True)]
        rank, total = self.ranks.rank, sum(drawn)
        first, n = sum(drawn[:rank]), drawn[rank]
        if n:
            return [ReplayDraw(fields, total, first) for fields in self._select(n, at)]
        empty = self._like_a_draw({"raw": raw[:0], "y": y[:0]})
        return [ReplayDraw(dict(empty), total, first) for _ in method_draws(self.method)]

    def _like_a_draw(self, empty: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[:0] for key, value in self.buffer.contents().items()} or empty

    def add(
        self,
        fields: dict[str, Tensor],
        stored: dict[str, Tensor],
        labels: np.ndarray,
        at: At,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Offer this rank's part of the global batch to its buffer; `stored` is of that part."""
        cuts = bounds(len(labels), self.shards)
        for rank in range(self.ranks.size):
            own = of_rank(rank, self.ranks.size, self.shards)
            start, stop = cuts[own[0]][0], cuts[own[-1]][1]
            self._seen[rank] += stop - start
            if rank == self.ranks.rank:
                part = {key: value[start:stop] for key, value in fields.items()}
                offers = self._offers.at(without_update(at))
                task = at.get("task", 0)
                self.buffer.add({**part, **stored}, labels[start:stop], offers, task, info)

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


def _require_countable(policy: Policy, method: Method) -> None:
    """Refuse what a process cannot decide from its own part of the buffer and by counting.

    Raises:
        UserError: names the draws, or the policy.
    """
    name = type(method).__name__
    if isinstance(method.replays, tuple):
        raise UserError(
            f"training.replay_sync=local: {name} draws by the examples of the whole memory, of "
            "which each process has a part; use training.replay_sync=replicated"
        )
    if policy.at_task_end or not policy.stays_full:
        raise UserError(
            f"training.replay_sync=local with buffer={policy.name or type(policy).__name__}: which "
            "examples stay depends on the whole memory, of which each process has a part; use "
            "training.replay_sync=replicated, buffer=reservoir or buffer=class-balanced"
        )
