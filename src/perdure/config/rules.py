"""Ranges of single values: one table for what is typed and for objects built in Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from perdure.config.task_sizes import are_epochs
from perdure.errors import UserError


@dataclass(frozen=True)
class Rule:
    """Which values other than None are accepted, and that in words."""

    accepts: Callable[[Any], bool]
    words: str

    def check(self, key: str, value: Any) -> None:
        """Refuse a `value` of `key` that is out of range.

        Raises:
            UserError: says what is accepted.
        """
        if value is not None and not self.accepts(value):
            raise UserError(f"{key}={value}: {self.words}")


def _above_zero(words: str) -> Rule:
    return Rule(lambda value: bool(value > 0), words)


def _limit(unit: str) -> Rule:
    return Rule(lambda value: 0 < value < math.inf, f"must be a float above 0 ({unit})")


_COUNT = Rule(
    lambda value: isinstance(value, Integral) and int(value) >= 1, "must be an integer, 1 or more"
)

_NUMBER = Rule(
    lambda value: isinstance(value, Integral) and int(value) >= 0, "must be an integer, 0 or more"
)

RULES = {
    "seed": _NUMBER,
    "threads": _COUNT,
    "checkpoint.keep": _COUNT,
    "checkpoint.top_k": Rule(lambda value: bool(value >= 0), "must be 0 or more"),
    "checkpoint.max_minutes": _limit("minutes"),
    "checkpoint.max_gigabytes": _limit("gigabytes"),
    "data.max_minutes": _limit("minutes"),
    "dataset.epochs": Rule(
        are_epochs, "must be an integer, 1 or more, a list of one a task, or {first: 160, rest: 20}"
    ),
    "dataset.iterations": _COUNT,
    "dataset.batch_size": _COUNT,
    "dataset.stop_after": _COUNT,
    "dataset.seed": _NUMBER,
    "dataset.imbalance": Rule(
        lambda value: 0 < value <= 1, "must be a float above 0, up to 1 (the smallest class's part)"
    ),
    "dataset.noise.rate": Rule(lambda value: 0 <= value < 1, "must be a fraction in [0, 1)"),
    "dataset.validation": Rule(lambda value: 0 <= value < 1, "must be a fraction in [0, 1)"),
    "budget.bytes": _COUNT,
    "buffer.batch_size": _COUNT,
    "buffer.per_class": _COUNT,
    "evaluation.first_batches": _NUMBER,
    "evaluation.probe_every": _COUNT,
    "evaluation.probe_size": _COUNT,
    "evaluation.records_bytes": _COUNT,
    "tracking.wandb.finish_seconds": _above_zero("must be above 0 (seconds)"),
    "training.clip_norm": _above_zero("must be above 0, or null"),
    "training.collective_timeout": _above_zero("must be above 0 (seconds)"),
    "training.evaluate_every": _COUNT,
    "training.evaluate_every_task": _COUNT,
    "training.eval_batch_size": _COUNT,
    "training.log_every": _COUNT,
    "training.shards": _COUNT,
    "training.updates": _COUNT,
}
"""By the key of the configuration."""


def check_stop_after(stop_after: int | None, n_tasks: int | None, benchmark: str) -> None:
    """Refuse to stop after more tasks than `benchmark` has; None is not known yet.

    Raises:
        UserError: says how many it has.
    """
    if stop_after is not None and n_tasks is not None and stop_after > n_tasks:
        raise UserError(f"dataset.stop_after={stop_after}: {benchmark} has {n_tasks} tasks")
