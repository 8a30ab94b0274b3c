"""What a run must know of its processes: shards, devices, threads, and notices for the user."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from perdure.config.schema import Parallel, ReplaySync, TrainingConfig
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.ranks import environment, shards
from perdure.run.resume import RestorePoint


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


def threads() -> int:
    """CPU threads for a large network: this process's share of the cores."""
    return max(1, (os.cpu_count() or 1) // environment.local_world_size())


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
