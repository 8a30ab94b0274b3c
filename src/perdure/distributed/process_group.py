"""The process group: what the ranks of one run exchange, and the size they have.

Nothing here adds: sums are made by the caller, in an order of his own, except for whole numbers.
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
    """An exchange under way."""

    def __init__(self, work: Any | None) -> None:
        self._work = work

    def wait(self) -> None:
        """Until it is done (on a GPU: until what follows can rely on it)."""
        if self._work is not None:
            with _worded():
                self._work.wait()


class Ranks:
    """One rank's view of all. The default is a process of its own, rank 0 of 1.

    Every method is a call that all ranks make, in the same order.

    Args:
        rank: this one.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes, prints and logs."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """[n, …] of each rank → [size · n, …], in the order of the ranks."""
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        out = rows.new_empty((self.size, *rows.shape))
        with _worded():
            dist.all_gather(list(out.unbind()), rows)
        return out.flatten(0, 1)

    def start_sum(self, values: Tensor) -> Pending:
        """Begin to replace `values` by their sum over ranks, in whatever order is fast."""
        with _worded():
            return Pending(dist.all_reduce(values, async_op=True) if self.size > 1 else None)

    def sum_counts(self, counts: Tensor) -> Tensor:
        """The sum over ranks of an int64 tensor, which is exact in any order."""
        if self.size > 1:
            with _worded():
                dist.all_reduce(counts)
        return counts

    def from_main(self, value: T) -> T:
        """Rank 0's `value` on every rank: any object, its tensors on the CPU."""
        if self.size == 1:
            return value
        held = [value if self.is_main else None]
        with _worded():
            dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
        return held[0]  # type: ignore[return-value]

    def collect(self, value: T) -> list[T] | None:
        """The objects of all ranks, in their order, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        held: list[Any] | None = [None] * self.size if self.is_main else None
        with _worded():
            dist.gather_object(value, held, 0)
        return held

    def wait(self) -> None:
        """Until all ranks are here."""
        self.sum_counts(torch.zeros((), dtype=torch.int64))


def join(timeout: float) -> Ranks:
    """The ranks of this launch; the process group is made at the first call and stays.

    Args:
        timeout: seconds that a rank waits for the others in one exchange.

    Raises:
        PeerLostError: they do not all come.
    """
    if environment.world_size() == 1:
        return Ranks()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(environment.local_rank() % torch.cuda.device_count())
        with _worded(), environment.waiting():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                store=rendezvous.own_store(),
                rank=environment.rank(),
                world_size=environment.world_size(),
                timeout=timedelta(seconds=timeout),
            )
        # Its threads must be gone before the process is, or that ends in an abort.
        atexit.register(dist.destroy_process_group)
    return Ranks(environment.rank(), environment.world_size())


@contextmanager
def _worded() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # all that gloo, NCCL and the store raise
        # "[file:line] what happened. Advice": the middle is for the user.
        reason = str(error).splitlines()[0].rpartition("] ")[2] or str(error)
        raise PeerLostError(reason.partition(". ")[0]) from error
