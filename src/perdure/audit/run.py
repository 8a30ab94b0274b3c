"""The watched training run of an audit, which several checks look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from perdure.audit.exactness import Saved
from perdure.audit.memory import MemoryWatch
from perdure.audit.outcome import FindingError
from perdure.audit.trial import Trial
from perdure.datasets.transforms import Scale
from perdure.training.state import SaveContext
from perdure.training.trainer import Trainer


@dataclass
class WatchedRun:
    """A run whose memory and frozen parts are looked at as it goes.

    Attributes:
        trainer: the trainer, at the end.
        memory: what was seen of the buffer.
        in_memory: what was found to be wrong in it, or in what the method keeps.
        in_frozen: likewise of what the method says is frozen.
        frozen: the names of what it says is frozen.
    """

    trainer: Trainer
    memory: MemoryWatch
    in_memory: str = ""
    in_frozen: str = ""
    frozen: dict[str, Tensor] = field(default_factory=dict)


def watched_run(trial: Trial) -> WatchedRun:
    """Train `trial` to its end, looking after each step."""
    saved = Saved()
    trainer = trial.trainer(saved)
    replay = trainer.state.replay
    buffer = None if replay is None else replay.buffer
    memory = MemoryWatch(buffer, trial.capacity, trial.benchmark, trial.transform)
    run = WatchedRun(trainer, memory)

    def watch(context: SaveContext) -> None:
        ended = context.ended
        task = context.position.task if ended is None else ended
        if not run.in_memory:
            try:
                memory.look(task)
                if ended is not None:
                    memory.search(trainer.method, ended)
            except FindingError as finding:
                run.in_memory = str(finding)
        if ended is not None and not run.in_frozen:
            run.in_frozen = _compare(run, ended)

    saved.watch = watch
    trainer.fit()
    return run


def _compare(run: WatchedRun, task: int) -> str:
    """What of the frozen state is not as it was; takes in what is frozen from now on."""
    now = run.trainer.method.frozen_state()
    for name, before in run.frozen.items():
        if name not in now:
            return f"{name} was frozen before task {task}, and is not any more"
        if before.shape != now[name].shape or not torch.equal(before, now[name]):
            return f"{name} is said to be frozen, and changed in task {task}"
    run.frozen = {name: value.detach().clone() for name, value in now.items()}
    return ""


@torch.no_grad()
def choices(
    run: WatchedRun, transform: Scale, raw: Tensor, task: int | None, sizes: list[int]
) -> tuple[Tensor, Tensor]:
    """The method's scores [N, classes] of raw examples, in batches of these sizes in turn.

    Returns:
        The scores over the classes seen, and the labels of the largest ones, int64 [N].
    """
    method = run.trainer.method
    seen = method.task.seen
    method.eval()
    parts, start, turn = [], 0, 0
    while start < len(raw):
        x = transform(raw[start : start + sizes[turn % len(sizes)]], None)
        scores = method.predict(x, task) if method.needs_task_id else method.predict(x)
        parts.append(seen.select(scores))
        start += len(x)
        turn += 1
    found = torch.cat(parts)
    return found, found.argmax(1)
