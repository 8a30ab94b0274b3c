"""Training events and the base class of recorders (callbacks, loggers) that handle them.

An event is a plain fact about a run; the trainer emits events in the order in which they happen.
Accuracies are fractions in [0, 1]. A *scenario name* is `class_il`, `task_il` or `domain_il`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Event(ABC):
    """Something that happened in a run.

    Each kind of event names its handler, so that the type checker sees both ends.
    """

    __slots__ = ()

    @abstractmethod
    def deliver(self, recorder: Recorder) -> None:
        """Call the method of `recorder` that handles this kind of event."""


@dataclass(frozen=True)
class RunStart(Event):
    """The run is built and about to train (from `global_step` when it is resumed)."""

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    n_tasks: int
    """How many tasks this run trains (1 when training jointly)."""
    n_parameters: int
    """Trained ones in the first task; a method may add some for later ones."""
    device: str
    global_step: int = 0
    notices: tuple[str, ...] = ()
    """Sentences the user should see once before training starts."""

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_run_start(self)


@dataclass(frozen=True)
class TaskStart(Event):
    """A task's data are ready; its first step comes next."""

    task: int
    label: str
    """What the task holds, for people: `classes 2 3`, `rotation 31.5°`, …"""
    n_examples: int
    steps: int
    """Optimizer steps the whole task takes."""
    steps_per_epoch: int

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_task_start(self)


@dataclass(frozen=True)
class Tick(Event):
    """Time passed (a few times a second): where training stands, without reading the device."""

    task: int
    epoch: int
    step: int
    """Steps done in this task."""
    global_step: int

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_tick(self)


@dataclass(frozen=True)
class StepLog(Event):
    """Every `training.log_every` steps: the mean loss since the last such event, and the rate."""

    task: int
    epoch: int
    step: int
    """Steps done in this epoch."""
    global_step: int
    loss: float | None
    """None where no step since the last such event had a loss."""
    lr: float
    steps_per_second: float
    logged: dict[str, float] = field(default_factory=dict)
    """What the method logged, each the mean since the last such event."""

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_step_log(self)


@dataclass(frozen=True)
class Evaluation(Event):
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

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_evaluation(self)


@dataclass(frozen=True)
class RawRow(Event):
    """What an evaluation, or one on small probe sets, counted: plain values, one line a row.

    `row` has `kind` (`evaluation`, `probe`, `incoming`), `task`, `epoch` and `global_step`; a row
    of the same kind at the same place in training is the same row.
    """

    row: dict[str, Any]

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_raw_row(self)


@dataclass(frozen=True)
class RawExamples(Event):
    """What was predicted for each example at the end of `task`: NumPy arrays by name."""

    task: int
    arrays: dict[str, Any]

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_raw_examples(self)


@dataclass(frozen=True)
class TaskEnd(Event):
    """A task is trained and evaluated; `results` is what results.json holds from now on."""

    task: int
    global_step: int
    seconds: float
    results: dict[str, Any]

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_task_end(self)


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """A checkpoint is durable on disk."""

    path: Path
    task: int
    global_step: int
    seconds: float

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_checkpoint_saved(self)


@dataclass(frozen=True)
class RunEnd(Event):
    """Training is over: `results["status"]` is finished, interrupted or failed."""

    results: dict[str, Any]
    error: str | None = None

    def deliver(self, recorder: Recorder) -> None:
        recorder.on_run_end(self)


class Recorder:
    """Observes a run; a subclass overrides the handlers of the events that concern it.

    Recorders are notified in the order of the list that the trainer is given: one that reads what
    another writes comes after it. A handler that returns late delays training.

    Attributes:
        name: the key of its state in a checkpoint, so no two recorders of a run share one.
    """

    name = "recorder"

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a handler of no event.

        Raises:
            TypeError: a method is called `on_…`, and no event has such a handler.
        """
        super().__init_subclass__(**arguments)
        unknown = [n for n in vars(cls) if n.startswith("on_") and not hasattr(Recorder, n)]
        if unknown:
            raise TypeError(f"{cls.__name__}.{unknown[0]} handles no event of perdure.tracking")

    def receive(self, event: Event) -> None:
        """Handle `event`; the trainer calls nothing else while it trains."""
        event.deliver(self)

    def on_run_start(self, event: RunStart) -> None:
        """The run is about to train."""

    def on_task_start(self, event: TaskStart) -> None:
        """A task is about to be trained."""

    def on_tick(self, event: Tick) -> None:
        """Time passed."""

    def on_step_log(self, event: StepLog) -> None:
        """`training.log_every` steps were made."""

    def on_evaluation(self, event: Evaluation) -> None:
        """Accuracy was measured."""

    def on_raw_row(self, event: RawRow) -> None:
        """An evaluation was recorded."""

    def on_raw_examples(self, event: RawExamples) -> None:
        """The predictions at a task's end were recorded."""

    def on_task_end(self, event: TaskEnd) -> None:
        """A task is trained and evaluated."""

    def on_checkpoint_saved(self, event: CheckpointSaved) -> None:
        """A checkpoint is durable."""

    def on_run_end(self, event: RunEnd) -> None:
        """Training is over."""

    def state_dict(self) -> dict[str, Any]:
        """What this recorder needs to resume after a kill (plain types and tensors)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict()` of an earlier process."""
