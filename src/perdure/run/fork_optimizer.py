"""The optimizer and the scheduler of a fork: carried over, changed in their options, or fresh."""

from __future__ import annotations

import warnings
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from perdure.config.schema import Per
from perdure.run.fork import LENGTH, Fork
from perdure.training.trainer import Trainer

_RATES = ("optimizer.lr", "optimizer.weight_decay")
"""Options that leave an optimizer's state (momentum, moments) meaningful."""
_SCHEDULE = ("scheduler", "training.scheduler_per")


def load_optimizer(trainer: Trainer, fork: Fork) -> list[str]:
    """Take over the optimizer and the scheduler as far as `fork` leaves them what they were.

    Returns:
        What to tell.

    Raises:
        UserError: the state does not fit; names the keys.
    """
    state, saved = trainer.state, fork.source.state
    at_start = state.position.task == 0 or trainer.settings.reset_optimizer
    if state.position.task_begins and at_start:
        return []  # the task starts with fresh ones
    told = []
    schedule = fork.changed(*_SCHEDULE)
    if state.scheduler is not None:
        schedule = schedule or fork.changed(*LENGTH)
    if fork.changed("optimizer") or schedule:
        told += _advance(trainer, fork, bool(schedule))
    elif state.scheduler is not None:
        state.scheduler.load_state_dict(saved["scheduler"])
    options = [_options(group) for group in state.optimizer.param_groups]
    structural = [c for c in fork.changed("optimizer") if c.key not in _RATES]
    if structural:
        told.append(f"{', '.join(map(str, structural))}: the optimizer starts with fresh state")
        return told
    try:
        state.load_optimizer(saved["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise fork.misfit(error, "optimizer", "model") from error
    if fork.changed("optimizer") or schedule:
        for group, fresh in zip(state.optimizer.param_groups, options, strict=True):
            group.update(fresh)
    return told


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _advance(trainer: Trainer, fork: Fork, is_other: bool) -> list[str]:
    """Bring the fresh scheduler to where it would be, had it been there before."""
    scheduler = trainer.state.scheduler
    if scheduler is None:
        return [f"{fork.shown(*_SCHEDULE)}: the learning rate is constant"] if is_other else []
    keys = fork.shown(*_SCHEDULE, *LENGTH) or fork.shown("optimizer")
    count = _count(trainer, fork)
    if isinstance(scheduler, ReduceLROnPlateau) or count is None:
        return [f"{keys}: the scheduler starts afresh"]
    with warnings.catch_warnings():
        # torch warns of steps of a scheduler before any of its optimizer.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(count):
            scheduler.step()
    rate = trainer.state.optimizer.param_groups[0]["lr"]
    unit = trainer.settings.scheduler_per.name
    return [f"{keys}: the scheduler stands at {unit} {count}, learning rate {rate:g}"]


def _count(trainer: Trainer, fork: Fork) -> int | None:
    """How often the scheduler would have been stepped; None where nobody knows."""
    settings, position = trainer.settings, trainer.state.position
    if not settings.reset_optimizer:
        saved = fork.source.state["scheduler"]
        known = saved is not None and not fork.changed("training.scheduler_per")
        return saved.get("last_epoch") if known else None
    if settings.scheduler_per is Per.epoch:
        return position.epoch
    benchmark = trainer.benchmark
    split = benchmark.joint() if settings.joint else benchmark.train(position.task)
    return position.epoch * -(-len(split.y) // settings.batch_size) + position.step
