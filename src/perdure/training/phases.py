"""The phases of a task (training stages): which examples each has, how long, with which optimizer.

What a phase trains on follows from the task, from the memory as it is when the phase begins, and
from the seed, so that a resumed run makes the same batches again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.config.schema import Per
from perdure.datasets.arrays import Split
from perdure.datasets.streams import Length, TaskStream, length
from perdure.models.base import Method, Task
from perdure.models.memory import Memory
from perdure.models.phase import MAIN, Phase, check_phases
from perdure.randomness import Streams
from perdure.training.evaluation import is_due
from perdure.training.optim import OptimizerFactory
from perdure.training.replay import stores_each_step
from perdure.training.schedules import count
from perdure.training.settings import Settings


@dataclass(frozen=True)
class HeldOut:
    """Which examples the other phases of a task do not see.

    Attributes:
        task: bool [N] over the task's examples.
        memory: bool [M] over those in the memory.
    """

    task: Tensor
    memory: Tensor


class Phases:
    """The phases of every task of a run.

    Args:
        method: says which there are.
        settings: how to train.
        streams: the run's random streams.
        sizes: training examples of each task.
        tasks: all tasks of the benchmark.
        optimizers: makes the optimizer that the configuration names.
        memory: what the buffer holds.
        least: examples that a batch must have where a task is trained on its own examples alone,
            whose number was checked, and where it has other phases.

    Attributes:
        schedule_lengths: how many times the schedule of each task's main phase is stepped before
            it is over. Of the memory as many examples count as it can hold by then.

    Raises:
        ValueError: the phases of a task cannot be trained or resumed.
    """

    def __init__(
        self,
        method: Method,
        settings: Settings,
        streams: Streams,
        sizes: Sequence[int],
        tasks: Sequence[Task],
        optimizers: OptimizerFactory,
        memory: Memory,
        least: tuple[int, int],
    ) -> None:
        self._method = method
        self._settings = settings
        self._streams = streams
        self._sizes = sizes
        self._optimizers = optimizers
        self._memory = memory
        self._least = least
        self._held: tuple[int, HeldOut] | None = None
        n_tasks, every = settings.stop_after or len(tasks), settings.evaluate_every_task
        self._phases = [
            self._of_evaluated(method.phases(task), is_due(task.index, n_tasks, every))
            for task in tasks
        ]
        stores_at_step = stores_each_step(method, memory.buffer)
        for phases in self._phases:
            check_phases(phases, type(method).__name__, stores_at_step, method.keeps_all_data)
        lengths = [self._main_length(task.index) for task in tasks]
        self.schedule_lengths = [count(lengths, task.index, settings) for task in tasks]

    @staticmethod
    def _of_evaluated(phases: Sequence[Phase], is_evaluated: bool) -> Sequence[Phase]:
        if is_evaluated:
            return phases
        return [replace(each, epochs=0) if each.evaluated else each for each in phases]

    def of(self, task: int) -> Sequence[Phase]:
        """The phases of `task`, in order."""
        return self._phases[task]

    def stream(self, phase: Phase, task: Task, split: Split, first_epoch: int) -> TaskStream:
        """The batches of `phase`.

        Args:
            phase: one of the task's.
            task: the current task.
            split: its training examples; those of all tasks so far where the phase says so.
            first_epoch: number of the phase's first epoch within the task.
        """
        settings = self._settings
        return TaskStream(
            self._examples(phase, task, split),
            phase.batch_size or settings.batch_size,
            self._streams,
            task.index,
            settings.epochs_of(task.index) if phase.epochs is None else phase.epochs,
            settings.iterations if phase.epochs is None else None,
            self._least_of(task.index),
            first_epoch=first_epoch,
            class_balanced=phase.class_balanced and phase.data != "held-out",
        )

    def _least_of(self, task: int) -> int:
        return self._least[list(self._phases[task]) != [MAIN]]

    def _examples(self, phase: Phase, task: Task, split: Split) -> Split:
        holder = next((other for other in self.of(task.index) if any(other.held_out)), None)
        if holder is None or phase.after_storing:
            memory = self._of_memory(split) if "memory" in phase.data else split
            parts = {
                "task": [split],
                "all-seen": [split],
                "memory": [memory],
                "task+memory": [split, memory],
            }
            return _joined(parts.get(phase.data, []), split)
        memory, held = self._of_memory(split), self._held_out(task, split, holder)
        if phase.data == "held-out":
            return _joined([_rows(split, held.task), _rows(memory, held.memory)], split)
        rest = {
            "task": [_rows(split, ~held.task)],
            "memory": [_rows(memory, ~held.memory)],
            "task+memory": [_rows(split, ~held.task), _rows(memory, ~held.memory)],
        }
        return _joined(rest[phase.data], split)

    def _of_memory(self, like: Split) -> Split:
        if not len(self._memory):
            return Split(like.x[:0], like.y[:0])
        return Split(*self._memory.split())

    def _held_out(self, task: Task, split: Split, holder: Phase) -> HeldOut:
        """As `holder.held_out` says; the memory does not change before the last phase that asks."""
        if self._held is not None and self._held[0] == task.index:
            return self._held[1]
        labels = [split.y.cpu().numpy(), self._of_memory(split).y.cpu().numpy()]
        counts = [
            {int(c): _part(int((y == c).sum()), fraction) for c in np.unique(y)}
            for y, fraction in zip(labels, holder.held_out, strict=True)
        ]
        user = next((p for p in self.of(task.index) if p.data == "held-out"), None)
        if user is not None and user.class_balanced:
            least = min(n for each in counts for n in each.values() if n)
            counts = [{c: min(n, least) for c, n in each.items()} for each in counts]
        rows = [
            self._chosen(y, each, f"held out of {name}", task.index)
            for y, each, name in zip(labels, counts, ("task", "memory"), strict=True)
        ]
        held = HeldOut(*(torch.from_numpy(chosen).to(split.y.device) for chosen in rows))
        self._held = (task.index, held)
        return held

    def _chosen(
        self, labels: np.ndarray, counts: dict[int, int], purpose: str, task: int
    ) -> np.ndarray:
        """`counts[c]` random examples of each class c, bool [N]."""
        chosen = np.zeros(len(labels), dtype=bool)
        for c, n in counts.items():
            generator = self._streams.numpy(purpose, task=task, part=c)
            chosen[generator.choice(np.flatnonzero(labels == c), n, replace=False)] = True
        return chosen

    # --- optimizers ---------------------------------------------------------------------------

    def check(self, accuracies: Sequence[str]) -> None:
        """Refuse, before anything is trained, a scheduler that fails in one of the tasks.

        Args:
            accuracies: names of the accuracies that an evaluation computes.

        Raises:
            UserError: says what to give instead.
        """
        for task, n in enumerate(self.schedule_lengths):
            if n and (task == 0 or n != self.schedule_lengths[task - 1]):
                self._optimizers.of(self._main(task)).check(self._settings, accuracies, [n])

    def main_optimizer(self, task: int) -> tuple[torch.optim.Optimizer, Any | None]:
        """A fresh optimizer for the main phase of `task`, and its scheduler."""
        main = self._main(task)
        groups = self._method.parameter_groups(main)
        return self._optimizers.of(main)(groups, self.schedule_lengths[task])

    def own_optimizer(
        self, phase: Phase, stream: TaskStream | None = None
    ) -> tuple[torch.optim.Optimizer, Any | None]:
        """The fresh optimizer of a phase other than `main`, and its scheduler.

        Args:
            phase: the phase.
            stream: the phase's batches; None where a saved state follows, which says how long the
                schedule is.
        """
        n = 1
        if stream is not None:
            n = stream.steps if self._settings.scheduler_per is Per.step else stream.epochs
        return self._optimizers.of(phase)(self._method.parameter_groups(phase), n)

    def _main(self, task: int) -> Phase:
        return next((phase for phase in self._phases[task] if phase.is_main), MAIN)

    def _main_length(self, task: int) -> Length:
        settings, main = self._settings, self._main(task)
        before = min(self._memory.capacity, sum(self._sizes[:task]))
        sizes = {"memory": 0, "all-seen": sum(self._sizes[: task + 1])}
        n = sizes.get(main.data, self._sizes[task]) + (before if "memory" in main.data else 0)
        if main.epochs == 0:
            return Length(0, 0, 0)
        return length(
            n,
            main.batch_size or settings.batch_size,
            settings.epochs_of(task) if main.epochs is None else main.epochs,
            settings.iterations if main.epochs is None else None,
            self._least_of(task),
        )


def _part(n: int, fraction: float) -> int:
    """How many of `n` examples are held out; one at least, if one is left."""
    return 0 if fraction == 0 or n < 2 else min(n - 1, max(1, round(fraction * n)))


def _rows(split: Split, chosen: Tensor) -> Split:
    return Split(split.x[chosen], split.y[chosen])


def _joined(parts: Sequence[Split], like: Split) -> Split:
    found = [part for part in parts if len(part)]
    if len(found) == 1:
        return found[0]
    if not found:
        return Split(like.x[:0], like.y[:0])
    return Split(torch.cat([p.x for p in found]), torch.cat([p.y for p in found]))
