"""Measuring within a run (evaluation at a task's end, or after epochs): count, record, follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch.optim.lr_scheduler import ReduceLROnPlateau

from perdure.config.schema import EvaluationConfig
from perdure.datasets.arrays import Split
from perdure.tracking import events
from perdure.training.evaluation import Counts, Evaluator, measured
from perdure.training.hooks import Hooks
from perdure.training.probing import Probing
from perdure.training.raw_records import RawRecords
from perdure.training.schedules import monitored, plateau_every
from perdure.training.settings import Settings
from perdure.training.state import TrainState


class Measuring:
    """Evaluates the method as training goes on.

    Args:
        evaluator: counts correct answers.
        hooks: let the method derive what it predicts with.
        state: the run.
        settings: how to train.
        emit: passes an event to the recorders.
        options: what is recorded beside the counts; None records nothing.

    Attributes:
        probing: evaluations on small probe sets.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        hooks: Hooks,
        state: TrainState,
        settings: Settings,
        emit: Callable[[events.Event], None],
        options: EvaluationConfig | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._hooks = hooks
        self._state = state
        self._settings = settings
        self._emit = emit
        self._options = options if options is not None and options.records else None
        self.probing = Probing(evaluator, hooks, state, settings, options, emit)

    def untrained(self) -> None:
        """Measure accuracy on all tasks before any is trained, for forward transfer."""
        self._measure(-1, True, None)

    def __call__(self, split: Split, boundary: bool) -> dict[str, float]:
        """Measure accuracy on the tasks seen so far (or on all), and send it to the recorders.

        Args:
            split: training examples of the current task.
            boundary: whether the task is at its end.

        Returns:
            What `checkpoint.monitor` can name.
        """
        n_tasks = self._evaluator.benchmark.n_tasks
        trained = n_tasks - 1 if self._settings.joint else self._state.position.task
        values = self._measure(trained, boundary, split)
        if boundary:
            self.probing.at_end(split)
        self._follow(values)
        return values

    def _measure(self, trained: int, boundary: bool, split: Split | None) -> dict[str, float]:
        started, state, benchmark = time.perf_counter(), self._state, self._evaluator.benchmark
        everything = self._settings.evaluate_future or self._settings.joint
        n = benchmark.n_tasks if everything else trained + 1
        seen = range(0) if split is None else state.method.task.seen
        with state.clock.phase("evaluation"):
            if split is not None:
                self._hooks.before_evaluation(split)
            # What classes are taken for is kept of a task's end alone.
            confused = range(trained + 1 if boundary else 0)
            record = self._record(range(n), boundary and split is not None)
            counts = self._evaluator.count(range(n), seen, confused, record=record).on_host()
            accuracy = state.results.add(counts, trained, boundary)
        at, seconds = state.position, time.perf_counter() - started
        self._emit(
            events.Evaluation(
                at.task, at.epoch, at.global_step, boundary, accuracy, benchmark.split, seconds
            )
        )
        if record is not None and self._evaluator.ranks.is_main:
            self._send(record, counts, trained, boundary)
        return measured(accuracy, trained)

    def _record(self, tasks: range, at_end: bool) -> RawRecords | None:
        """What to fill in an evaluation of `tasks`; with examples `at_end` of a task alone."""
        if self._options is None:
            return None
        return RawRecords(self._evaluator, tasks, self._options.records_bytes if at_end else None)

    def _send(self, record: RawRecords, counts: Counts, trained: int, boundary: bool) -> None:
        at = self._state.position
        row = {
            "kind": "evaluation",
            "task": at.task,
            "epoch": at.epoch,
            "global_step": at.global_step,
            "trained": trained,
            "boundary": boundary,
            "classes": record.by_class(counts),
        }
        self._emit(events.RawRow(row))
        if record.every:
            self._emit(events.RawExamples(at.task, record.arrays(counts)))

    def _follow(self, values: Mapping[str, float]) -> None:
        """Step a scheduler on a plateau by what has just been measured."""
        scheduler = self._state.scheduler
        if not isinstance(scheduler, ReduceLROnPlateau):
            return
        if self._state.position.epoch % plateau_every(scheduler, self._settings) == 0:
            scheduler.step(values[monitored(scheduler, self._evaluator.accuracies)])
