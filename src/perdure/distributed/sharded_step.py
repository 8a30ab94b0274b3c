"""The sharded step (data parallelism, gradient accumulation): run shards, all-gather, sum in order.

A shard is a fixed part of the global batch, whoever runs it, with random numbers and batch
statistics of its own. The shards' gradients and losses are gathered on every rank as they are, and
summed in the order of the shards. A floating-point sum depends on its order, and that of an
all-reduce follows the number of ranks; here the world size decides who computes what, and changes
no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import Reduction, in_order
from perdure.models.base import Method
from perdure.ranks.shards import bounds, of_rank

_ALIGNMENT = 8


@dataclass(slots=True)
class PassResult:
    """What the forward and backward pass over a batch, or a shard of it, return.

    Attributes:
        loss: [], detached; None where the method takes no step.
        stored: the method's `stored_fields` of each example, {name: [B, …]}.
        references: the gradients of the method's further losses, [k, P].
        rows, sums, rewrite, log: as in the method's `StepOutput`.
    """

    loss: Tensor | None
    stored: dict[str, Tensor] = field(default_factory=dict)
    references: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    rewrite: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    log: dict[str, Tensor] = field(default_factory=dict)


ForwardBackward = Callable[[list[Batch], int], PassResult]
"""Forward and backward pass over the examples of the shard with this number."""


class ShardedStep:
    """Runs a batch in shards.

    Args:
        method: computes the loss.
        ranks: share the shards.
        shards: number of shards, a multiple of the number of ranks.
        reduction: sums their gradients.
        local_replay: whether each rank has replay draws and stored fields of its own.
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

    def __call__(
        self, batches: list[Batch], run: ForwardBackward, flags: Tensor
    ) -> tuple[PassResult, Tensor]:
        """Leave the gradient of the loss over the global batch in the parameters.

        Args:
            batches: the global batch and the replay draws.
            run: the passes over one shard's part of them.
            flags: control flags of this rank, uint8 [k].

        Returns:
            The result for the global batch, and for each flag the maximum over the ranks.
        """
        # A forward pass changes the network's buffers (batch norm's running statistics). A rank may
        # run several shards, so every shard starts from the same buffers, and those that shard 0
        # leaves are taken over by all: else they would depend on who ran which shard after which.
        networks = self.method.children()
        state = [value for network in networks for value in network.buffers()]
        before = [value.clone() for value in state]
        rows, results = [], []
        for shard in self.own:
            for value, start in zip(state, before, strict=True):
                value.copy_(start)
            self.reduction.begin(shard == self.own[-1])
            results.append(run(self._part(batches, shard), shard))
            if (results[-1].loss is None) != (results[0].loss is None):
                raise ValueError(
                    f"{type(self.method).__name__} gives a loss for some parts of a batch and none "
                    "for others"
                )
            row = self._row(results[-1], [self._room(batch) for batch in batches])
            row |= {f"state {i}": value for i, value in enumerate(state)}
            rows.append(_pack({**row, "flags": flags}))
            layout = {name: (value.shape, value.dtype) for name, value in row.items()}
        layout["flags"] = (flags.shape, flags.dtype)
        # One all-gather of bytes carries everything: on small networks the latency of a collective
        # call, not its size, is what a step on several ranks costs.
        gathered = _unpack(self.ranks.gather(torch.stack(rows)), layout)
        if "loss" in gathered:
            self.reduction.finish(gathered.get("gradient"))
        for i, value in enumerate(state):
            value.copy_(gathered[f"state {i}"][0])
        return self._combine(results, gathered, batches), gathered["flags"].amax(0)

    def _part(self, batches: list[Batch], shard: int) -> list[Batch]:
        parts: list[Batch] = []
        for batch in batches:
            if self.local_replay and parts:  # a replay draw of this rank alone
                parts.append(batch.part(*bounds(len(batch), len(self.own))[shard - self.own[0]]))
            else:
                parts.append(batch.part(*bounds(len(batch), self.shards)[shard]))
        return parts

    def _room(self, batch: Batch) -> int:
        """How many examples of `batch` the largest shard has."""
        return bounds(len(batch), self.shards)[0][1]

    def _row(self, result: PassResult, room: list[int]) -> dict[str, Tensor]:
        """All that the other ranks need of a shard; `room` of each batch is for the largest one."""
        row = {}
        if result.loss is not None:
            row["loss"] = result.loss
            gradient = self.reduction.take()
            if gradient is not None:
                row["gradient"] = gradient
        if result.references is not None:
            row["references"] = result.references
        row |= {f"sum {name}": value for name, value in result.sums.items()}
        row |= {f"log {name}": value for name, value in result.log.items()}
        for name, value, n in self._per_example(result, room):
            padded = value.new_zeros((n, *value.shape[1:]))
            padded[: len(value)] = value.detach()
            row[name] = padded
        return row

    def _per_example(
        self, result: PassResult, room: list[int]
    ) -> Iterator[tuple[str, Tensor, int]]:
        """What is gathered example by example: name, this shard's values, and the room for them."""
        yield from ((f"row {name}", value, room[0]) for name, value in result.rows.items())
        if self.local_replay:
            return
        yield from ((f"stored {name}", value, room[0]) for name, value in result.stored.items())
        for draw, fields in result.rewrite.items():
            for name, value in fields.items():
                yield f"rewrite {draw} {name}", value, room[1 + draw]

    def _combine(
        self, results: list[PassResult], gathered: dict[str, Tensor], batches: list[Batch]
    ) -> PassResult:
        """The result for the global batch."""
        first = results[0]

        def summed(name: str) -> Tensor | None:
            return in_order(gathered[name]) if name in gathered else None

        def joined(name: str, batch: Batch) -> Tensor:
            sizes = [stop - start for start, stop in bounds(len(batch), self.shards)]
            return torch.cat([p[:k] for p, k in zip(gathered[name], sizes, strict=True)])

        if self.local_replay:
            stored = {
                name: torch.cat([result.stored[name].detach() for result in results])
                for name in first.stored
            }
        else:
            stored = {name: joined(f"stored {name}", batches[0]) for name in first.stored}
        return PassResult(
            summed("loss"),
            stored,
            summed("references"),
            {name: joined(f"row {name}", batches[0]) for name in first.rows},
            {name: in_order(gathered[f"sum {name}"]) for name in first.sums},
            {
                draw: {name: joined(f"rewrite {draw} {name}", batches[1 + draw]) for name in fields}
                for draw, fields in first.rewrite.items()
            },
            {name: in_order(gathered[f"log {name}"]) for name in first.log},
        )


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
    tensors, start = {}, 0
    for name, (shape, dtype) in layout.items():
        size = shape.numel() * dtype.itemsize
        tensors[name] = rows[:, start : start + size].view(dtype).view(len(rows), *shape)
        start += size + -size % _ALIGNMENT
    return tensors
