"""Checkpoint cadence: when to save within a task (every epoch, N steps, N minutes, or several)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from perdure.errors import UserError
from perdure.training.state import Position

DEFAULT = ("task", "10 minutes")
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(?: (step|minute)s?)?")
"""A number alone counts steps."""


class Cadence:
    """Decides at a step boundary whether it is time to save.

    Args:
        every: any of `task`, `epoch`, `N steps` (or N alone), `N minutes`; None is `task` and
            `10 minutes`.
        joint: whether the run trains jointly and so has no tasks to save after.

    Raises:
        UserError: an entry is none of these.
    """

    def __init__(
        self, every: str | int | Sequence[str | int] | None = None, joint: bool = False
    ) -> None:
        entries = list(every) if isinstance(every, list | tuple) else [every]
        if every is None or not entries:
            entries = list(DEFAULT)
        self.epoch = "epoch" in entries
        self.steps: int | None = None
        self.seconds: float | None = None
        for entry in entries:
            self._take(str(entry))
        if joint and every is not None and "task" in entries:
            raise UserError(
                "checkpoint.every=task with training=joint: a joint run has no tasks; use epoch, "
                "'N steps' or 'N minutes'"
            )
        self._saved = time.monotonic()

    def step_due(self, position: Position) -> bool:
        """Whether to save at `position`; the same on every rank of a run."""
        if self.epoch and position.step == 0:
            return True
        return self.steps is not None and position.global_step % self.steps == 0

    def time_due(self) -> bool:
        """Whether to save now, wherever training stands; ranks differ in it, as their clocks do."""
        return self.seconds is not None and time.monotonic() - self._saved >= self.seconds

    def saved(self) -> None:
        """A checkpoint was just written: the minutes count from here."""
        self._saved = time.monotonic()

    def _take(self, entry: str) -> None:
        period = _PERIOD.fullmatch(entry)
        if period and float(period[1]) > 0:
            if period[2] == "minute":
                self.seconds = 60 * float(period[1])
                return
            if period[1].isdigit():
                self.steps = int(period[1])
                return
        if entry not in ("task", "epoch"):
            raise UserError(
                f"checkpoint.every={entry}: must be task, epoch, 'N steps', N (steps), "
                "'N minutes', or a list of these"
            )
