"""Training settings as plain values: batch size, epochs, precision, gradient clipping, shards."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, TypeVar

from perdure.config.rules import RULES
from perdure.config.schema import LossScope, Mode, TrainingConfig
from perdure.config.task_sizes import epochs_of
from perdure.config.validation import check_precision
from perdure.errors import UserError
from perdure.ranks import environment

_E = TypeVar("_E", bound=Enum)
_GROUPS = ("training.", "dataset.")
"""From these groups of the configuration come the settings, under the same names."""


@dataclass(kw_only=True)
class Settings(TrainingConfig):
    """How to train: how long, with which seed, and all of `training.*`.

    `conf/training/continual.yaml` explains the latter. A choice may be given as text,
    `precision="bf16"`.

    Attributes:
        batch_size: examples of the current task a step, over all ranks.
        epochs: passes over each task: an integer, a list of one a task, or {"first": 160,
            "rest": 20}; `epochs_of` gives those of a task.
        iterations: steps a task, instead of `epochs`.
        stop_after: train only the first so many tasks.
        seed: seed of every random draw of training; the network's weights are drawn when it is
            built, before there are settings: `perdure.randomness.seed_initialization`.
    """

    batch_size: int
    epochs: Any = 1
    iterations: int | None = None
    stop_after: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(field.default, Enum):
                member = _member(field.name, type(field.default), getattr(self, field.name))
                setattr(self, field.name, member)
        if self.loss_scope is not None:
            self.loss_scope = _member("loss_scope", LossScope, self.loss_scope)
        for key, rule in RULES.items():
            name = key.rpartition(".")[2]
            if key.startswith(_GROUPS) and hasattr(self, name):
                rule.check(name, getattr(self, name))
        check_precision(self)

    def epochs_of(self, task: int) -> int:
        """Passes over `task`, where `iterations` does not say how long it is trained."""
        return epochs_of(self.epochs, task)

    @property
    def joint(self) -> bool:
        """Whether all tasks are trained at once instead of one after another."""
        return self.mode is Mode.joint

    @property
    def n_shards(self) -> int:
        """Parts that every batch is split into, whatever the number of processes."""
        return self.shards or environment.world_size()


def _member(name: str, choices: type[_E], value: Any) -> _E:
    try:
        return choices(value)
    except ValueError:
        accepted = ", ".join(choices.__members__)
        raise UserError(f"{name}={value}: must be one of {accepted}") from None
