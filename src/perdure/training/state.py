"""What must survive: the position and the parts that hold state, and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass
class Position:
    """Where training stands: the next step is `step` of `epoch` of `task`."""

    task: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0

    @property
    def task_begins(self) -> bool:
        """Whether nothing of the task has been trained yet."""
        return self.epoch == 0 and self.step == 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Stateful(Protocol):
    """A part that can be saved and go on: method, optimizer, scheduler, buffer, metrics, …"""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Checkpoints(Protocol):
    """What the trainer asks of whoever keeps its checkpoints."""

    def due(self, position: Position) -> bool:
        """Whether to save at this step boundary."""
        ...

    def save(self, state: dict[str, Any], position: Position, task: int | None) -> Path | None:
        """Keep `state`; `task` is the number of the task that has just ended, if one has."""
        ...

    def finish(self) -> None:
        """The run ended well and its results are durable."""
        ...
