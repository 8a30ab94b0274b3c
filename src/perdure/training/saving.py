"""The checkpoint hook of the training loop: between steps, hand the state to the manager.

No diverged state is saved or measured: a loss or weight that is NaN or infinite ends the run
instead.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.errors import DivergenceError
from perdure.tracking import events
from perdure.training.state import Checkpoints, Position, SaveContext, TrainState


class CheckpointHook:
    """Saves a run's state, and reports to the recorders what has become durable.

    Args:
        state: the run.
        checkpoints: writes the files; None saves nothing.
        joint: whether it has only one stage.
        split: what its evaluations are made on, `test` or `validation`.
        emit: passes an event to the recorders.
    """

    def __init__(
        self,
        state: TrainState,
        checkpoints: Checkpoints | None,
        joint: bool,
        split: str,
        emit: Callable[[events.Event], None],
    ) -> None:
        self.checkpoints = checkpoints
        self._state = state
        self._joint = joint
        self._split = split
        self._emit = emit
        self._saved_at: int | None = None

    def time_due(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return self.checkpoints is not None and self.checkpoints.time_due()

    def step_due(self, position: Position) -> bool:
        """Whether one is due at this position."""
        return self.checkpoints is not None and self.checkpoints.step_due(position)

    def wants_epochs(self) -> bool:
        """Whether every evaluated epoch is worth a file."""
        return self.checkpoints is not None and self.checkpoints.wants_epochs()

    def save(
        self,
        task: int,
        epoch: int,
        ended: int | None = None,
        measured: dict[str, float] | None = None,
    ) -> None:
        """Save the state, unless it has diverged; waits for the device.

        Args:
            task: index of the task, from 0.
            epoch: epochs of the task done.
            ended: index of the task that has just ended, if one has.
            measured: what the evaluation just made gave, by name.

        Raises:
            DivergenceError: the loss or a weight is NaN or infinite.
            UserError: the folder cannot be written to.
        """
        if self.checkpoints is None:
            return
        state = self._state
        # Before the save, since retention could remove the last finite state for a diverged one.
        self.require_finite_state()
        stage = "joint" if self._joint else f"task{task}"
        context = SaveContext(state.position, stage, epoch, ended, measured or {}, self._split)
        # Recorders get the one before while it is still there: retention runs with the next.
        self.report_saved(wait=True)
        with state.clock.phase("checkpoint"):
            self.checkpoints.save(state.state_dict(), context)
        self._saved_at = state.position.global_step
        self.report_saved()

    def save_here(self) -> None:
        """Save the state within a task, if that has not just been done."""
        position = self._state.position
        if self._saved_at != position.global_step:
            self.save(position.task, position.epoch)

    def report_saved(self, wait: bool = False) -> None:
        """Report to the recorders what is durable by now, or (`wait`) when everything is."""
        if self.checkpoints is None:
            return
        if wait:
            self.checkpoints.wait()
        for saved in self.checkpoints.take_saved():
            event = events.CheckpointSaved(saved.path, saved.task, saved.global_step, saved.seconds)
            self._emit(event)

    def require_finite_state(self) -> None:
        """Raises DivergenceError if the loss or a weight is NaN or infinite.

        Both reads wait for the device: for where an evaluation or a save waits anyway.
        """
        self.require_finite(self._state.loss.total())
        if not self._state.is_finite():
            self.require_finite(float("nan"))

    def require_finite_mean(self, loss: float | None) -> None:
        """Raises DivergenceError if the mean loss is NaN or infinite; None is that of no step."""
        if loss is not None:
            self.require_finite(loss)

    def require_finite(self, loss: float) -> None:
        """Raises DivergenceError if `loss` is NaN or infinite."""
        if loss - loss == 0:
            return
        position = self._state.position
        raise DivergenceError(
            f"training diverged: the loss or a weight became {loss} by step "
            f"{position.global_step} (task {position.task}, epoch {position.epoch}); a smaller "
            "optimizer.lr or a training.clip_norm usually helps"
        )
