"""TensorBoard logger (`tracking=tensorboard`): scalars in event files of the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from perdure.errors import UserError
from perdure.io.run_files import RunFiles
from perdure.tracking.events import Evaluation, Recorder, RunEnd, RunStart, StepLog, TaskEnd

_SUMMARY = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer")


class TensorBoard(Recorder):
    """Event files in `folder`/tensorboard; each process of a run writes one of its own.

    What a killed process has written of steps that are trained again is purged: TensorBoard shows
    the events of the resumed run alone from there on.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracking.tensorboard=true needs a package that is not installed: "
                "pip install 'perdure[tensorboard]'"
            ) from None
        self._writer_of = SummaryWriter
        self._files = RunFiles(folder)
        self._writer: SummaryWriter | None = None

    def on_run_start(self, event: RunStart) -> None:
        """Open an event file; the configuration is in it as text."""
        resumed = event.global_step > 0
        self._writer = self._writer_of(
            str(self._files.tensorboard), purge_step=event.global_step + 1 if resumed else None
        )
        text = yaml.safe_dump(event.config, sort_keys=False)
        self._writer.add_text("config", f"```\n{text}```", event.global_step)

    def on_step_log(self, event: StepLog) -> None:
        """Loss, learning rate, speed, and what the method logs."""
        values = {"loss": event.loss, "lr": event.lr, "steps_per_second": event.steps_per_second}
        self._add("train", {**values, **event.logged}, event.global_step)

    def on_evaluation(self, event: Evaluation) -> None:
        """Accuracy on each task, and their mean over the seen ones."""
        for name, accuracies in event.accuracy.items():
            seen = accuracies[: event.task + 1]
            values = {f"task_{task}": value for task, value in enumerate(accuracies)}
            if seen:
                values["mean"] = sum(seen) / len(seen)
            self._add(f"{event.split}_accuracy_{name}", values, event.global_step)

    def on_task_end(self, event: TaskEnd) -> None:
        """Average accuracy, forgetting, …; events so far are on disk."""
        for metric in _SUMMARY:
            self._add(metric, event.results.get(metric) or {}, event.global_step)
        if self._writer is not None:
            self._writer.flush()

    def on_run_end(self, event: RunEnd) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, group: str, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if self._writer is not None and value is not None:
                self._writer.add_scalar(f"{group}/{name}", value, step)
