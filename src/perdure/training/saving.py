"""Between steps: the state is handed to whoever keeps checkpoints, and no bad one is."""

from __future__ import annotations

from collections.abc import Callable

from perdure.errors import DivergenceError
from perdure.tracking import events
from perdure.training.state import Checkpoints, Occasion, Position, TrainState


class Saving:
    """Saves a run's state, and tells what has become durable.

    Args:
        state: the run.
        joint: whether it has only one stage.
        split: what its evaluations are made on.
        emit: tells the recorders.
    """

    def __init__(
        self, state: TrainState, joint: bool, split: str, emit: Callable[[events.Event], None]
    ) -> None:
        self.checkpoints: Checkpoints | None = None
        self._state = state
        self._joint = joint
        self._split = split
        self._emit = emit
        self._saved_at: int | None = None

    def late(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return self.checkpoints is not None and self.checkpoints.late()

    def due(self, position: Position) -> bool:
        """Whether one is due at this position."""
        return self.checkpoints is not None and self.checkpoints.due(position)

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
        """Keep the state, unless there is a number in it that is none."""
        if self.checkpoints is None:
            return
        state = self._state
        self.require_finite(float(state.loss.sum))
        if not state.is_finite():
            self.require_finite(float("nan"))
        stage = "joint" if self._joint else f"task{task}"
        occasion = Occasion(state.position, stage, epoch, ended, measured or {}, self._split)
        # Recorders hear of the one before while it is still there: retention runs with the next.
        self.tell_written(wait=True)
        with state.clock.phase("checkpoint"):
            self.checkpoints.save(state.state_dict(), occasion)
        self._saved_at = state.position.global_step
        self.tell_written()

    def save_here(self) -> None:
        """Keep the state within a task, if that has not just been done."""
        position = self._state.position
        if self._saved_at != position.global_step:
            self.save(position.task, position.epoch)

    def tell_written(self, wait: bool = False) -> None:
        """Tell the recorders what is durable by now, or when everything is."""
        if self.checkpoints is None:
            return
        if wait:
            self.checkpoints.wait()
        for one in self.checkpoints.written():
            self._emit(events.CheckpointSaved(one.path, one.task, one.global_step, one.seconds))

    def require_finite(self, loss: float) -> None:
        """Raises DivergenceError if `loss` is no finite number."""
        if loss - loss == 0:
            return
        position = self._state.position
        raise DivergenceError(
            f"training diverged: the loss or a weight became {loss} by step "
            f"{position.global_step} (task {position.task}, epoch {position.epoch}); a smaller "
            "optimizer.lr or a training.clip_norm usually helps"
        )
