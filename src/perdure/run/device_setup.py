"""What a run must know of its processes: shards, devices, threads, and notices for the user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from perdure.config.schema import Parallel, ReplaySync, TrainingConfig
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.ranks import environment, shards
from perdure.run.resume import RestorePoint

_SMALL = 1_000_000
"""Parameters below which a second thread costs more than it saves."""
_MOST_THREADS = 1024


def shards_of(training: TrainingConfig, source: RestorePoint | None, ranks: Ranks) -> int:
    """How many shards the run has: as configured, as before, or one a process.

    Raises:
        UserError: the processes cannot share them equally.
    """
    shards_before = None
    if source is not None and not source.fork:
        shards_before = source.config.args["training"].get("shards", 1)
    number = int(training.shards or shards_before or ranks.size)
    shards.check(number, ranks.size)
    return number


def device_name(name: str) -> str:
    """On several processes, `cuda` is the GPU with this one's number.

    Raises:
        UserError: there is none for it, or one was named for all.
    """
    if environment.local_world_size() == 1 or not name.startswith("cuda"):
        return name
    here, n = environment.local_world_size(), torch.cuda.device_count()
    if name != "cuda" or here > n:
        raise UserError(
            f"device={name} on {here} processes: each needs a GPU of its own and there are {n}; "
            "leave device=auto, or start fewer (torchrun --nproc-per-node)"
        )
    return f"cuda:{environment.local_rank()}"


def threads_before(source: RestorePoint | None) -> int | None:
    """CPU threads a process that the resumed run was started with; None where nothing says it."""
    if source is None or source.fork:
        return None
    number = source.config.args.get("threads")
    if number is None:  # a run of before this was settled at the start
        versions = source.state.get("versions")
        text = str(versions.get("threads", "")) if isinstance(versions, Mapping) else ""
        number = int(text) if text.isdecimal() and len(text) < 6 else None
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return number if 1 <= number <= _MOST_THREADS else None


def threads_of(n_parameters: int, shards: int, ranks: Ranks) -> int:
    """CPU threads a process for a run that starts: one for a small network, else a shard's share.

    The kernels of a large network add in an order that follows from the number of threads. So it
    is a function of the shards, not of the processes, and the same on all of them.
    """
    if n_parameters < _SMALL:
        return 1
    return max(1, ranks.broadcast(environment.cores()) // shards)


def thread_notice(threads: int | None) -> Iterator[str]:
    """What the user should know where a run was started on a machine with more cores.

    Args:
        threads: what it was started with.
    """
    cores, here = environment.cores(), environment.local_world_size()
    if threads is not None and threads * here > cores:
        yield (
            f"threads={threads}: as the run was started, and this machine has {cores} cores for "
            f"{here} processes: it is slower, and ends with the same bits"
        )


def notices(training: TrainingConfig, ranks: Ranks) -> Iterator[str]:
    """What the user should know of how the work is shared."""
    if ranks.size > 1:
        yield f"{ranks.size} processes, {training.shards} shards of every batch"
    if training.shards == 1:
        return
    if training.parallel is Parallel.fsdp:
        yield (
            "training.parallel=fsdp: each process holds a part of the network; results agree with "
            "training.parallel=replicate up to rounding, not to the bit"
        )
    elif not training.exact:
        yield (
            "training.exact=false: gradients are summed in whatever order is fast; results at "
            "another number of processes agree up to rounding, not to the bit"
        )
    if training.replay_sync is ReplaySync.local:
        yield (
            "training.replay_sync=local: each process keeps a part of the buffer; results at "
            "another number of processes agree in their statistics, not to the bit"
        )
