"""Phases of a task (training stages, balanced fine-tuning, bias correction): on which data, how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PhaseData = Literal["task", "memory", "task+memory", "held-out", "all-seen"]


@dataclass(frozen=True)
class Phase:
    """A part of training within a task.

    Attributes:
        name: unlike those of the task's other phases. The optimizer of `main` is the run's own,
            which `training.reset_optimizer` may keep; any other phase has a fresh one.
        data: the examples: the task's, the buffer's, both, or those that `held_out` set apart.
            "all-seen" are those of every task so far, which a bound on continual learning has.
            Replay is drawn, and examples are offered to the buffer, on "task" alone.
        epochs: passes; None trains as long as the benchmark says, 0 skips the phase.
        batch_size: examples a step; None is the benchmark's.
        optimizer: options that replace the configuration's; with a `_target_` all of them.
        scheduler: of the learning rate, as `conf/scheduler` has it; empty for the configuration's
            in `main` and for a constant rate in any other phase.
        clip_norm: largest norm of the gradient; None is `training.clip_norm`.
        class_balanced: whether every class gives as many examples as the rarest one, drawn anew
            for each epoch; of a "held-out" phase, as many are held out of each class.
        after_storing: whether it comes after `after_task` and the task's end of the buffer.
        evaluated: whether it prepares a task's evaluation alone, and is skipped where there is none
            (`training.evaluate_every_task`): what it changes must not reach later tasks.
        held_out: part of each class of the task, and of the memory, that no other phase sees.
    """

    name: str = "main"
    data: PhaseData = "task"
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    class_balanced: bool = False
    after_storing: bool = False
    evaluated: bool = False
    held_out: tuple[float, float] = (0.0, 0.0)

    @property
    def is_main(self) -> bool:
        """Whether the run's own optimizer trains it."""
        return self.name == "main"


MAIN = Phase()


def check_phases(
    phases: Sequence[Phase], method: str, stores_at_step: bool, keeps_all_data: bool = False
) -> None:
    """Refuse phases that cannot be trained or resumed.

    Args:
        phases: of one task, in order.
        method: name of the class, for the message.
        stores_at_step: whether the buffer changes from step to step.
        keeps_all_data: whether the method says that it has the examples of all tasks so far.

    Raises:
        ValueError: says which.
    """
    names = [phase.name for phase in phases]
    if not phases or phases[0].after_storing or len(set(names)) < len(names):
        raise ValueError(
            f"{method}.phases gives {names}: must be one phase or more, with different names, the "
            "first of them before storing"
        )
    order = [phase.after_storing for phase in phases]
    if order != sorted(order):
        raise ValueError(f"{method}.phases gives {names}: those after storing must come last")
    everything = [phase.name for phase in phases if phase.data == "all-seen"]
    if everything and not keeps_all_data:
        raise ValueError(
            f"{method}.phases: {everything[0]} is trained on the examples of all tasks so far; "
            "declare keeps_all_data = True"
        )
    if everything and any(any(phase.held_out) for phase in phases):
        raise ValueError(f"{method}.phases: one on all that was seen goes with nothing held out")
    if sum(any(phase.held_out) for phase in phases) > 1:
        raise ValueError(f"{method}.phases: one phase alone may say what is held out")
    is_split = any(phase.data == "task+memory" or phase.held_out[1] for phase in phases)
    if is_split and stores_at_step:
        raise ValueError(
            f"{method}.phases: trains on the memory while examples are stored in it at each step; "
            'declare store_at = "task"'
        )
