"""A step's shards: run one after another, exchanged between the ranks at once, and put together.

A shard is a fixed part of the global batch, whoever runs it, with random numbers and batch
statistics of its own. All that shards give is gathered on every rank, untouched, and added in the
order of the shards; so the world size changes who computes what, and not one bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import Reduction, in_order
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.ranks.shards import bounds, of_rank

_ALIGNMENT = 8


@dataclass(slots=True)
class Outcome:
    """What the forward and backward pass over a batch, or a shard of it, give.

    Attributes:
        loss: [], detached.
        memory: what is to be remembered of each example, {name: [B, …]}.
        reference: the gradient of the method's reference loss, one tensor a parameter.
    """

    loss: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)
    reference: list[Tensor] | None = None


Pass = Callable[[list[Batch], int], Outcome]
"""Forward and backward pass over the examples of the shard with this number."""


class Sharding:
    """Runs a batch in shards.

    Args:
        method: whose loss it is.
        ranks: who shares the shards.
        shards: how many there are, a multiple of the ranks.
        reduction: what becomes of their gradients.
        local_replay: whether a rank's replay and memory are its own.
    """

    def __init__(
        self, method: Method, ranks: Ranks, shards: int, reduction: Reduction, local_replay: bool
    ) -> None:
        self.method = method
        self.ranks = ranks
        self.shards = shards
        self.reduction = reduction
        self.local_replay = local_replay
        self.own = of_rank(ranks.rank, ranks.size, shards)

    def __call__(self, batches: list[Batch], run: Pass, wishes: Tensor) -> tuple[Outcome, Tensor]:
        """Leave the gradient of the loss over the global batch in the parameters.

        Args:
            batches: the global batch and the replay draws.
            run: the passes over one shard's part of them.
            wishes: uint8 [k] that this rank wants all to know.

        Returns:
            What the global batch gives, and the largest of each of the ranks' wishes.
        """
        # What a forward pass leaves in the network (batch norm's running statistics) is shard 0's.
        state = list(self.method.backbone.buffers())
        before = [value.clone() for value in state]
        rows, outcomes = [], []
        for shard in self.own:
            for value, start in zip(state, before, strict=True):
                value.copy_(start)
            self.reduction.begin(shard == self.own[-1])
            with _worded(self.shards):
                outcomes.append(run(self._part(batches, shard), shard))
            row = self._row(outcomes[-1], bounds(len(batches[0]), self.shards)[0][1])
            row |= {f"state {i}": value for i, value in enumerate(state)}
            rows.append(_pack({**row, "wishes": wishes}))
            layout = {name: (value.shape, value.dtype) for name, value in row.items()}
        layout["wishes"] = (wishes.shape, wishes.dtype)
        given = _unpack(self.ranks.gather(torch.stack(rows)), layout)
        self.reduction.finish(given.get("gradient"))
        for i, value in enumerate(state):
            value.copy_(given[f"state {i}"][0])
        return self._whole(outcomes, given, len(batches[0])), given["wishes"].amax(0)

    def _part(self, batches: list[Batch], shard: int) -> list[Batch]:
        parts: list[Batch] = []
        for batch in batches:
            if self.local_replay and parts:  # this rank drew it for itself
                parts.append(batch.part(*bounds(len(batch), len(self.own))[shard - self.own[0]]))
            else:
                parts.append(batch.part(*bounds(len(batch), self.shards)[shard]))
        return parts

    def _row(self, outcome: Outcome, room: int) -> dict[str, Tensor]:
        """All that the other ranks must know of a shard; memory has `room` for the largest."""
        row = {"loss": outcome.loss}
        gradient = self.reduction.take()
        if gradient is not None:
            row["gradient"] = gradient
        if outcome.reference is not None:
            row["reference"] = torch.cat([part.flatten() for part in outcome.reference])
        if not self.local_replay:
            for name, value in outcome.memory.items():
                padded = value.new_zeros((room, *value.shape[1:]))
                padded[: len(value)] = value.detach()
                row[f"memory {name}"] = padded
        return row

    def _whole(self, outcomes: list[Outcome], given: dict[str, Tensor], n: int) -> Outcome:
        """The global batch's outcome."""
        reference = None
        if "reference" in given:
            like = outcomes[0].reference or []
            parts = in_order(given["reference"]).split([part.numel() for part in like])
            reference = [part.view_as(other) for part, other in zip(parts, like, strict=True)]
        sizes = [stop - start for start, stop in bounds(n, self.shards)]
        memory = {}
        for name in outcomes[0].memory:
            if self.local_replay:
                memory[name] = torch.cat([outcome.memory[name].detach() for outcome in outcomes])
            else:
                padded = given[f"memory {name}"]
                memory[name] = torch.cat([p[:k] for p, k in zip(padded, sizes, strict=True)])
        return Outcome(in_order(given["loss"]), memory, reference)


@contextmanager
def _worded(shards: int) -> Iterator[None]:
    """Turns torch's refusal of a batch statistic of one value into a sentence."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"training.shards={shards}: a shard of a single example has no batch statistics; "
            "choose fewer shards, a dataset.batch_size that leaves a larger last batch, or "
            "training.sync_batchnorm=true"
        ) from error


Layout = dict[str, tuple[torch.Size, torch.dtype]]


def _pack(row: dict[str, Tensor]) -> Tensor:
    """The tensors' bytes one after another, uint8 [n], so that one exchange carries them all."""
    return torch.cat([_bytes(value) for value in row.values()])


def _bytes(value: Tensor) -> Tensor:
    flat = value.detach().contiguous().flatten().view(torch.uint8)
    rest = -len(flat) % _ALIGNMENT
    return torch.nn.functional.pad(flat, (0, rest)) if rest else flat


def _unpack(rows: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The tensors again, each [shards, …]: views of `rows`, uint8 [shards, n]."""
    given, start = {}, 0
    for name, (shape, dtype) in layout.items():
        size = shape.numel() * dtype.itemsize
        given[name] = rows[:, start : start + size].view(dtype).view(len(rows), *shape)
        start += size + -size % _ALIGNMENT
    return given
