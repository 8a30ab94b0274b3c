"""How long runs will take: CPU seconds of a whole run, from a short one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from perdure.cli.runs import Job, run_once
from perdure.config.compose import compose
from perdure.config.overrides import Arguments
from perdure.config.typed import typed
from perdure.errors import UserError

_STEPS = 30


def cpu_seconds(words: Sequence[str]) -> float:
    """About how many CPU seconds `perdure train` with these words takes.

    Start and evaluation are those of a run with 30 steps a task; training is scaled by the number
    of steps. Phases that do not follow `dataset.iterations` are not.

    Args:
        words: flags and overrides.

    Raises:
        UserError: the short run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = Job((*words, f"dataset.iterations={_STEPS}"), Path(folder, "short"))
        ended = run_once(job)
    if ended.failure:
        raise UserError(ended.failure)
    spent = ended.results["cpu_seconds"]
    taken = max(1, int(ended.results["global_step"]))
    other: float = ended.cpu_seconds - spent["training"]
    return other + float(spent["training"]) * max(1.0, steps_of(words) / taken)


def steps_of(words: Sequence[str]) -> int:
    """Steps of the tasks' main phases in a whole run; builds the benchmark."""
    from perdure.datasets.streams import length
    from perdure.run.assemble import choose_device, make_benchmark, settings

    command = Arguments(tuple(words))
    config = typed(compose(*command.search_path, *(each.text for each in command.overrides)))
    benchmark, how = make_benchmark(config, choose_device("cpu")), settings(config)
    if how.joint:
        n = sum(benchmark.n_train(task) for task in range(benchmark.n_tasks))
        return length(n, how.batch_size, how.epochs_of(0), how.iterations).steps
    return sum(
        length(benchmark.n_train(task), how.batch_size, how.epochs_of(task), how.iterations).steps
        for task in range(how.stop_after or benchmark.n_tasks)
    )


def needs_gpu(words: Sequence[str]) -> bool:
    """Whether the network is more than a CPU can train in reasonable time, and there is no GPU."""
    import torch

    command = Arguments(tuple(words))
    config = typed(compose(*command.search_path, *(each.text for each in command.overrides)))
    return not config.backbone["_target_"].endswith(".MLP") and not torch.cuda.is_available()
