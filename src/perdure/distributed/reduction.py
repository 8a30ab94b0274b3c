"""Reduction of gradients: summed in the order of the shards (exact), or overlapped all-reduce.

FSDP's own reduction is in `fsdp.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from perdure.distributed.process_group import Ranks

_BUCKET_BYTES = 25 * 2**20


class Reduction(Protocol):
    """Called for each shard of this rank in turn; at the end `p.grad` holds the sum over all."""

    def begin(self, last: bool) -> None:
        """The next backward pass is another shard's, the `last` of this rank or not."""
        ...

    def take(self) -> Tensor | None:
        """The shard's gradient, [n], out of `p.grad`, if it travels with the step's all-gather."""
        ...

    def finish(self, gradients: Tensor | None) -> None:
        """All shards are done; `gradients` are those that all ranks took, [shards, n]."""
        ...


def in_order(rows: Tensor) -> Tensor:
    """[n, …] → […], the sum over the first dimension, one row after another.

    `sum(0)` may add in another order for another shape or device; this order is fixed, so that the
    bits depend on the rows alone, not on the ranks that computed them.
    """
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


class OrderedReduction:
    """Every rank gets every shard's gradient and sums them in the order of the shards.

    Args:
        parameters: the trained parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters

    def begin(self, last: bool) -> None: ...

    def take(self) -> Tensor | None:
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return torch.cat([g.flatten() for g in flat])

    def finish(self, gradients: Tensor | None) -> None:
        if gradients is None:
            raise ValueError("the shards' gradients are not among the gathered tensors")
        parts = in_order(gradients).split([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            p.grad = part.view_as(p)


class OverlappedReduction:
    """All-reduce of gradient buckets during the backward pass, in whatever order is fast.

    Buckets are filled from the last parameter to the first, the order in which the backward pass
    computes gradients, and a bucket is sent when it is complete: communication overlaps with the
    rest of the backward pass. Only the last shard of a rank sends; the ones before accumulate.

    Args:
        parameters: the trained parameters.
        ranks: take part in the sum.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.ranks = ranks
        self.buckets = _buckets(parameters)
        self._armed = False
        self._missing: list[int] = []
        self._sent: list[tuple[list[nn.Parameter], Tensor, Any]] = []
        for number, bucket in enumerate(self.buckets):
            for p in bucket:
                p.register_post_accumulate_grad_hook(self._counter(number))

    def begin(self, last: bool) -> None:
        self._armed = last
        self._missing = [len(bucket) for bucket in self.buckets]

    def take(self) -> Tensor | None:
        return None

    def finish(self, gradients: Tensor | None) -> None:
        for number, missing in enumerate(self._missing):
            if missing:  # parameters that the loss did not reach
                self._send(number)
        for bucket, flat, work in self._sent:
            work.wait()
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)
        self._sent.clear()
        self._armed = False

    def _counter(self, number: int) -> Any:
        def count(_: Tensor) -> None:
            if self._armed:
                self._missing[number] -= 1
                if not self._missing[number]:
                    self._send(number)

        return count

    def _send(self, number: int) -> None:
        bucket = self.buckets[number]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([g.flatten() for g in grads])
        self._sent.append((bucket, flat, self.ranks.all_reduce_async(flat)))


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for p in reversed(parameters):
        if room <= 0:
            buckets.append([])
            room = _BUCKET_BYTES
        buckets[-1].append(p)
        room -= p.numel() * p.element_size()
    return buckets
