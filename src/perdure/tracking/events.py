"""What the trainer tells the recorders: plain facts about a run, in the order they happen.

Accuracies are fractions in [0, 1]. A *scenario name* is `class_il`, `task_il` or `domain_il`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunStart:
    """The run is built and about to train (or to go on from `global_step` when resumed)."""

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    n_tasks: int
    """How many tasks this run trains (1 when training jointly)."""
    n_parameters: int
    device: str
    global_step: int = 0
    notices: tuple[str, ...] = ()
    """Sentences the user should see once before training starts."""


@dataclass(frozen=True)
class TaskStart:
    """A task's data are ready; its first step comes next."""

    task: int
    label: str
    """What the task holds, for people: `classes 2 3`, `rotation 31.5°`, …"""
    n_examples: int
    steps: int
    """Optimizer steps the whole task takes."""
    steps_per_epoch: int


@dataclass(frozen=True)
class Tick:
    """Time passed (a few times a second): where training stands, without reading the device."""

    task: int
    epoch: int
    step: int
    """Steps done in this task."""
    global_step: int


@dataclass(frozen=True)
class StepLog:
    """Every `training.log_every` steps: the mean loss since the last such event, and the rate."""

    task: int
    epoch: int
    step: int
    """Steps done in this epoch."""
    global_step: int
    loss: float
    lr: float
    steps_per_second: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on tasks, measured after task `task` ended (`boundary`) or within it."""

    task: int
    epoch: int
    """Epochs of the task done so far."""
    global_step: int
    boundary: bool
    accuracy: dict[str, list[float]]
    """Scenario name → accuracy on task 0, 1, …; future tasks follow where they were evaluated."""
    split: str
    """`test` or `validation`."""
    seconds: float


@dataclass(frozen=True)
class TaskEnd:
    """A task is trained and evaluated; `results` is what results.json holds from now on."""

    task: int
    global_step: int
    seconds: float
    results: dict[str, Any]


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint is durable on disk."""

    path: Path
    task: int
    global_step: int
    seconds: float


@dataclass(frozen=True)
class RunEnd:
    """Training is over: `results["status"]` is finished, interrupted or failed."""

    results: dict[str, Any]
    error: str | None = None


Event = RunStart | TaskStart | Tick | StepLog | Evaluation | TaskEnd | CheckpointWritten | RunEnd


@dataclass
class Recorder:
    """Listens to a run; a subclass defines `on_<event>` for the events it wants.

    `on_run_start`, `on_task_start`, `on_tick`, `on_step_log`, `on_evaluation`, `on_task_end`,
    `on_checkpoint_written`, `on_run_end`. The trainer knows recorders only through `receive`.
    """

    name: str = field(default="recorder", init=False)

    def receive(self, event: Event) -> None:
        """Hand `event` to its method, when this recorder has one."""
        method = getattr(self, _METHODS[type(event)], None)
        if method is not None:
            method(event)

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill for this recorder to go on (plain types and tensors)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()` of an earlier process."""


_METHODS: dict[type, str] = {
    RunStart: "on_run_start",
    TaskStart: "on_task_start",
    Tick: "on_tick",
    StepLog: "on_step_log",
    Evaluation: "on_evaluation",
    TaskEnd: "on_task_end",
    CheckpointWritten: "on_checkpoint_written",
    RunEnd: "on_run_end",
}
