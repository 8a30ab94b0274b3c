"""Start-up checks: which method, benchmark, buffer and settings can be combined."""

from __future__ import annotations

from perdure.buffers.base import Buffer
from perdure.config.rules import check_stop_after
from perdure.config.schema import Parallel
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.ranks import shards
from perdure.training.settings import Settings


def check(
    method: Method,
    benchmark: Scenario,
    settings: Settings,
    buffer: Buffer | None,
    world_size: int = 1,
) -> None:
    """Refuse combinations that make no sense.

    Raises:
        UserError: names the combination.
    """
    name = type(method).__name__
    if method.replays and buffer is None:
        raise UserError(f"{name} replays from a buffer: give it one")
    if benchmark.kind not in method.scenarios:
        raise UserError(
            f"{name} is defined for {' and '.join(method.scenarios)} benchmarks, not for a "
            f"{benchmark.kind} one"
        )
    if settings.joint and not method.joint:
        raise UserError(f"{name} cannot train jointly")
    check_stop_after(settings.stop_after, benchmark.n_tasks, "the benchmark")
    shards.check(settings.n_shards, world_size)
    if settings.n_shards > 1 and not method.additive:
        raise UserError(
            f"training.shards={settings.n_shards}: the loss of {name} is not a mean over "
            "examples, so its batches cannot be split; train it on one process"
        )
    if settings.sync_batchnorm:
        shards.check_sync_batchnorm(settings.n_shards, world_size)
    if settings.parallel is Parallel.fsdp and world_size > 1 and method.needs_full_parameters:
        raise UserError(
            f"training.parallel=fsdp: {name} computes with whole parameters, which no process "
            "holds then; use training.parallel=replicate"
        )
