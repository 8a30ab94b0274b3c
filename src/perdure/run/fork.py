"""Forks: what a run with other settings takes over of a checkpoint, and what starts afresh.

docs/forks.md has the table. What was learned fixes the benchmark; the network is always taken over;
the rest is where it can be, and the user is told of what cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from perdure.config.compare import BENCHMARK, Change, changes, is_within
from perdure.config.schema import Config, Mode
from perdure.config.trust import location_keys
from perdure.config.typed import as_plain
from perdure.errors import UserError
from perdure.run.resume import RestorePoint
from perdure.training.state import Position

LENGTH = ("dataset.epochs", "dataset.iterations", "dataset.batch_size")
"""Keys that say how long a task is trained."""
_BACKBONE = "backbone."


class Fork:
    """A run that starts from the state of another, with settings of its own.

    Args:
        config: the fork's configuration.
        source: the checkpoint.

    Attributes:
        changes: what is another than in the checkpoint's configuration.
        position: where the checkpoint stands.

    Raises:
        UserError: a change makes no sense with what has been learned; names the keys.
    """

    def __init__(self, config: Config, source: RestorePoint) -> None:
        self.config = config
        self.source = source
        self.changes = changes(as_plain(config), source.config.args)
        self.position = position_of(source)
        self._check_benchmark()
        self._check_method()
        self._check_tasks()

    def changed(self, *keys: str) -> list[Change]:
        """What is another among `keys` and below them."""
        return [change for change in self.changes if is_within(change.key, keys)]

    def shown(self, *keys: str) -> str:
        """The same, for people."""
        return ", ".join(map(str, self.changed(*keys)))

    @cached_property
    def benchmark(self) -> list[Change]:
        """What of the benchmark is another.

        A key that the configuration did not have yet is none; where data lie may differ.
        """
        known = self.source.config.args.get("dataset", {})
        places = set(location_keys({"dataset": as_plain(self.config)["dataset"]}))
        return [
            change
            for change in self.changed(*BENCHMARK)
            if change.key.split(".")[1] in known and change.key not in places
        ]

    @property
    def is_new_method(self) -> bool:
        """Whether the method, or its add-on, is of another class."""
        return bool(self.changed("model._target_", "addon._target_"))

    @property
    def backbone_weights(self) -> dict[str, Any] | None:
        """What another method is built around: the backbone of the checkpoint; None otherwise."""
        if not self.is_new_method:
            return None
        return {
            name.removeprefix(_BACKBONE): value
            for name, value in self.source.state["model"].items()
            if name.startswith(_BACKBONE)
        }

    def misfit(self, error: Exception, *keys: str) -> UserError:
        """The state does not fit, which the changed `keys` explain, or else all that changed."""
        shown = self.shown(*keys) or ", ".join(map(str, self.changes)) or "this version"
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        return UserError(
            f"{shown}: the state in {self.source.path} does not fit ({reason}); leave it as it was"
        )

    def marks(self) -> list[dict[str, Any]]:
        """What results.json says of another benchmark: from which task on, and how it differs."""
        if not self.benchmark:
            return []
        return [{"task": self.position.task, "changed": list(map(str, self.benchmark))}]

    # --- what is refused ----------------------------------------------------------------------

    def _check_benchmark(self) -> None:
        if not self.benchmark:
            return
        listed = ", ".join(map(str, self.benchmark))
        learned, path = self._learned(), self.source.path
        if not self.config.checkpoint.other_benchmark:
            raise UserError(
                f"{listed}: {path} has learned {learned} of another benchmark; leave these as "
                "they were, start from its weights alone (best.pth), or add "
                "checkpoint.other_benchmark=true, and the results are marked"
            )
        if not self.position.task_begins:
            raise UserError(
                f"{listed}: {path} stands within task {self.position.task}; another benchmark can "
                "begin with a task only, so fork a checkpoint of a task's end"
            )

    def _check_method(self) -> None:
        if mode := self.shown("training.mode"):
            raise UserError(
                f"{mode}: {self.source.path} is of a run in the other mode; a fork keeps the mode"
            )
        if self.is_new_method and not self.position.task_begins:
            changed = self.shown("model.name", "model._target_", "addon._target_")
            raise UserError(
                f"{changed}: {self.source.path} stands within "
                f"task {self.position.task}; another method can begin with a task only, so fork a "
                "checkpoint of a task's end"
            )

    def _check_tasks(self) -> None:
        if self.config.training.mode is Mode.joint:
            return
        started = self.position.task + (not self.position.task_begins)
        for key in ("n_tasks", "stop_after"):
            n = getattr(self.config.dataset, key)
            if n is not None and n < started:
                raise UserError(
                    f"dataset.{key}={n}: {self.source.path} has learned {self._learned()}; must be "
                    f"{started} or more"
                )

    def _learned(self) -> str:
        task, ended = self.position.task, self.position.task_begins
        if ended and task <= 1:
            return "task 0"
        return f"tasks 0 to {task - ended}" if task else "a part of task 0"


_IN_ALL = {"task", "epoch", "step", "global_step"}
"""What every checkpoint says of its position; phases came later."""


def position_of(source: RestorePoint) -> Position:
    """Where the checkpoint stands.

    Raises:
        UserError: it does not say so.
    """
    found = source.state.get("position")
    if not isinstance(found, Mapping) or not _IN_ALL <= found.keys() <= vars(Position()).keys():
        raise UserError(f"{source.path}: damaged (it holds no position)")
    if not all(isinstance(value, int) and value >= 0 for value in found.values()):
        raise UserError(f"{source.path}: damaged (its position is {dict(found)})")
    return Position(**found)
