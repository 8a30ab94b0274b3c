"""The process group (torch.distributed, gloo and NCCL): gather, broadcast, sum, barrier.

Floats are gathered, and summed by the caller in a fixed order; only integers, whose sum is exact in
any order, and the inexact mode (`all_reduce_async`) use an all-reduce.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from perdure.errors import PeerLostError
from perdure.ranks import environment, rendezvous

T = TypeVar("T")


class Pending:
    """A collective call in progress."""

    def __init__(self, work: Any | None) -> None:
        self._work = work

    def wait(self) -> None:
        """Block until it is done (on a GPU: the stream waits, not the host)."""
        if self._work is not None:
            with _peer_errors():
                self._work.wait()


class Ranks:
    """One rank's view of the group; the default is a single process, rank 0 of 1.

    Every method is a collective call: all ranks make it, in the same order.

    Args:
        rank: this process's rank.
        size: the world size.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes, prints and logs."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """All-gather: [n, …] of each rank → [size · n, …], in the order of the ranks."""
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        out = rows.new_empty((self.size, *rows.shape))
        with _peer_errors():
            dist.all_gather(list(out.unbind()), rows)
        return out.flatten(0, 1)

    def all_reduce_async(self, values: Tensor) -> Pending:
        """Start an all-reduce of `values` in place, in whatever order is fast."""
        with _peer_errors():
            return Pending(dist.all_reduce(values, async_op=True) if self.size > 1 else None)

    def sum_counts(self, counts: Tensor) -> Tensor:
        """The sum over ranks of an int64 tensor, which is exact in any order."""
        if self.size > 1:
            with _peer_errors():
                dist.all_reduce(counts)
        return counts

    def broadcast(self, value: T) -> T:
        """Broadcast rank 0's `value`: any object, its tensors on the CPU."""
        if self.size == 1:
            return value
        objects = [value if self.is_main else None]
        with _peer_errors():
            dist.broadcast_object_list(objects, 0, device=torch.device("cpu"))
        return objects[0]  # type: ignore[return-value]

    def gather_objects(self, value: T) -> list[T] | None:
        """Gather the objects of all ranks, in their order, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        objects: list[Any] | None = [None] * self.size if self.is_main else None
        with _peer_errors():
            dist.gather_object(value, objects, 0)
        return objects

    def barrier(self) -> None:
        """Block until all ranks are here."""
        self.sum_counts(torch.zeros((), dtype=torch.int64))


def join(timeout: float) -> Ranks:
    """Join the process group of this launch; it is made at the first call and stays.

    Args:
        timeout: seconds that a rank waits for the others in one collective call.

    Raises:
        PeerLostError: a rank is missing.
    """
    if environment.world_size() == 1:
        return Ranks()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(environment.local_rank() % torch.cuda.device_count())
        with _peer_errors(), environment.waiting():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=rendezvous.own_store(),
                rank=environment.rank(),
                world_size=environment.world_size(),
                timeout=timedelta(seconds=timeout),
            )
        # Its threads must end before the process does, or the process ends in an abort.
        atexit.register(dist.destroy_process_group)
    return Ranks(environment.rank(), environment.world_size())


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise PeerLostError where a collective call fails."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # all that gloo, NCCL and the store raise
        # "[file:line] what happened. Advice": the middle is for the user.
        reason = str(error).splitlines()[0].rpartition("] ")[2] or str(error)
        raise PeerLostError(reason.partition(". ")[0]) from error
