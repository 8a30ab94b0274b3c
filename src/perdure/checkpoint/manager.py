"""Which checkpoints a run writes, under which names, and which of them stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.checkpoint import format as files
from perdure.checkpoint.cadence import Cadence
from perdure.errors import UserError
from perdure.training.state import Position

_KEEP_ROLLING = 2


def stem(
    name: str, model: str, dataset: str, buffer_size: int, n_epochs: int, timestamp: str
) -> str:
    """What the names of a run's per-task files start with (Mammoth's convention)."""
    return f"{name}{model}_{dataset}_{buffer_size}_{n_epochs}_{timestamp}"


class CheckpointManager:
    """Keeps a full file a task (`save=True`), and a rolling one so that any run can go on.

    The rolling files `step-<global step>_full.pth` serve the time between the ends of tasks (and
    those too with `save=False`); the newest two stay, and none once the run has ended well.

    Args:
        folder: where the files go; made when the first one is written.
        stem: start of the per-task files' names.
        save: whether to keep a file a task.
        cadence: when to save within a task.
        joint: whether the run trains jointly: its one per-task file is named `…_joint.pt`.
        extra: what every file holds besides the trainer's state: versions, overrides, …
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        save: bool,
        cadence: Cadence,
        joint: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.stem = stem
        self.keep_tasks = save
        self.cadence = cadence
        self.joint = joint
        self.extra = extra or {}
        self._rolling: list[Path] = []

    def due(self, position: Position) -> bool:
        """Whether to save at this step boundary."""
        return self.cadence.due(position)

    def save(self, state: dict[str, Any], position: Position, task: int | None) -> Path | None:
        """Write `state`; `task` is the number of the task that has just ended, if one has.

        Raises:
            UserError: the folder cannot be written to.
        """
        if task is not None and self.keep_tasks:
            path = self.folder / f"{self.stem}_{'joint' if self.joint else task}.pt"
        else:
            path = self.folder / f"step-{position.global_step}_full.pth"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(path, {**state, **self.extra}, {"position": position.as_dict()})
        except OSError as error:
            raise UserError(f"cannot write the checkpoint {path}: {error.strerror}") from error
        self.cadence.saved()
        if path.suffix == ".pth":
            self._rolling.append(path)
        self._retain(_KEEP_ROLLING)
        return path

    def finish(self) -> None:
        """The run ended well and its results are durable: the rolling files go."""
        self._retain(0)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _retain(self, n: int) -> None:
        for path in self._rolling[: len(self._rolling) - n]:
            files.remove(path)
        self._rolling = self._rolling[len(self._rolling) - n :]
