"""Progress of a run for the recorders: its start, each phase, the mean loss, the rate of steps."""

from __future__ import annotations

import time
from collections.abc import Sequence

from perdure.datasets.streams import TaskStream
from perdure.tracking import events
from perdure.training.recording import Recording
from perdure.training.state import TrainState

_TICK_SECONDS = 0.2


class Progress:
    """Sends the events of training that are neither an evaluation nor a checkpoint.

    Args:
        recording: passes them to the recorders.
        state: the run.
    """

    def __init__(self, recording: Recording, state: TrainState) -> None:
        self.recording = recording
        self.state = state
        # Now, before a resume grows the network: the first task's, however often it is resumed.
        self._n_parameters = sum(p.numel() for p in state.method.trainable())
        self._rate = (time.monotonic(), 0)
        self._next_tick = 0.0

    def start(self, n_tasks: int, notices: Sequence[str]) -> None:
        """The run starts, or is resumed."""
        state = self.state
        self.recording.emit(
            events.RunStart(
                self.recording.folder,
                state.config,
                state.summary(),
                n_tasks,
                self._n_parameters,
                str(state.device),
                state.position.global_step,
                tuple(notices),
            )
        )

    def begin(self, label: str, stream: TaskStream) -> None:
        """Training on `stream`, which is called `label`, starts or goes on after a resume."""
        task = self.state.position.task
        self.recording.emit(
            events.TaskStart(task, label, stream.n, stream.steps, stream.steps_per_epoch)
        )
        self._rate = (time.monotonic(), self.state.position.global_step)

    def log(self) -> float | None:
        """Send the mean loss since the last time, and return it: here the host waits for a step."""
        state, position, loss = self.state, self.state.position, self.state.loss.read()
        logged = {name: meter.read() for name, meter in state.logged.items()}
        (before, step), now = self._rate, time.monotonic()
        self._rate = (now, position.global_step)
        self.recording.emit(
            events.StepLog(
                position.task,
                position.epoch,
                position.step,
                position.global_step,
                loss,
                float(state.optimizer.param_groups[0]["lr"]),
                (position.global_step - step) / max(now - before, 1e-9),
                {name: value for name, value in logged.items() if value is not None},
            )
        )
        return loss

    def tick(self, stream: TaskStream) -> None:
        """Send where training stands, a few times a second."""
        if time.monotonic() < self._next_tick:
            return
        position = self.state.position
        self._next_tick = time.monotonic() + _TICK_SECONDS
        done = (position.epoch - stream.first_epoch) * stream.steps_per_epoch + position.step
        self.recording.emit(events.Tick(position.task, position.epoch, done, position.global_step))
