"""The loop: tasks, epochs, steps; evaluation and checkpoints between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from perdure.buffers.base import Buffer
from perdure.datasets.arrays import Split
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import Scenario
from perdure.datasets.streams import TaskStream
from perdure.datasets.transforms import Scale
from perdure.distributed.process_group import Ranks
from perdure.errors import DivergenceError, PeerLostError, PreemptedError, UserError
from perdure.models.base import Method, Task
from perdure.randomness import Streams
from perdure.tracking import events
from perdure.training.checks import check
from perdure.training.clock import Clock
from perdure.training.evaluation import Evaluator, measured
from perdure.training.optim import SGD
from perdure.training.results import Results
from perdure.training.saving import CheckpointHook
from perdure.training.settings import Settings
from perdure.training.state import Checkpoints, Position, TrainState
from perdure.training.step import Step

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]

_TICK_SECONDS = 0.2


class Trainer:
    """Trains a method on a benchmark and measures what it keeps.

    Args:
        method: the method, on its device.
        benchmark: the tasks, on the same device.
        settings: how to train.
        transform: raw bytes to inputs.
        optimizer: makes the optimizer for the given parameters.
        scheduler: makes a learning-rate scheduler for the optimizer.
        buffer: what replay draws from; needed when `method.replays` is above 0.
        recorders: listen to the run's events.
        checkpoints: keep the run's state.
        facts: what results.json says of the run besides what is measured.
        config: the composed configuration, for the recorders and the checkpoints.
        folder: where the run's files go, for the recorders.
        clock: counts seconds; a new one starts now.
        notices: sentences that recorders show once at the start.
        stop: asked at every step boundary; a reason to save and leave, or none.
        ranks: who shares the work; alone by default.
    """

    def __init__(
        self,
        method: Method,
        benchmark: Scenario,
        settings: Settings,
        transform: Scale | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        buffer: Buffer | None = None,
        recorders: Sequence[events.Recorder] = (),
        checkpoints: Checkpoints | None = None,
        facts: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        folder: Path | None = None,
        clock: Clock | None = None,
        notices: Sequence[str] = (),
        stop: Callable[[], str | None] = lambda: None,
        ranks: Ranks | None = None,
    ) -> None:
        ranks = ranks or Ranks()
        check(method, benchmark, settings, buffer, ranks.size)
        device = next(method.parameters()).device
        buffer = buffer if method.replays else None
        transform = transform or Scale()
        self.benchmark = benchmark
        self.settings = settings
        self.recorders = recorders
        self.folder = folder or Path()
        self.notices = tuple(notices)
        self.n_tasks = 1 if settings.joint else settings.stop_after or benchmark.n_tasks
        self._streams = Streams(settings.seed)
        self._transform = transform
        self._step = Step(method, transform, buffer, self._streams, settings, device, ranks)
        self._evaluator = Evaluator(
            method,
            benchmark,
            transform,
            settings.eval_batch_size,
            ranks,
            together=settings.parallel == "fsdp",
        )
        self._make_optimizer = optimizer or (lambda params: SGD(params, lr=0.1))
        self._make_scheduler = scheduler
        self.state = TrainState(
            method,
            *self._fresh_optimizer(method),
            self._step.scaler,
            buffer,
            Results(benchmark.accuracies, benchmark.n_tasks, facts or {}),
            clock or Clock(),
            recorders,
            settings.seed,
            config or {},
            device,
            self._step.replay,
            split=settings.parallel == "fsdp" and ranks.size > 1,
        )
        self.saving = CheckpointHook(self.state, settings.joint, benchmark.split, self._emit)
        self.saving.checkpoints = checkpoints
        self.agreement = self._step.agreement
        self.agreement.stop, self.agreement.late = stop, self.saving.time_due
        self._rate = (time.monotonic(), 0)
        self._next_tick = 0.0

    @property
    def method(self) -> Method:
        """The method that is trained."""
        return self.state.method

    @property
    def position(self) -> Position:
        """Where training stands."""
        return self.state.position

    def state_dict(self) -> dict[str, Any]:
        """All that must survive: `TrainState.state_dict`."""
        return self.state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict()` was taken."""
        self.state.load_state_dict(state)

    def fit(self) -> dict[str, Any]:
        """Train all tasks from where the position stands; returns what results.json holds.

        Raises:
            DivergenceError: the loss or a weight is not a finite number any more.
            PreemptedError: `stop` gave a reason; the state is saved.
        """
        self._start()
        results = self.state.results
        try:
            if self.settings.evaluate_future and self.position.global_step == 0:
                self._evaluate(trained=-1, boundary=True)
            while self.position.task < self.n_tasks:
                with self.state.clock.phase("training"):
                    self._train_task()
            self.saving.report_saved(wait=True)
        except BaseException as error:
            stopped = isinstance(error, PreemptedError | KeyboardInterrupt | PeerLostError)
            told = isinstance(error, PreemptedError | DivergenceError | UserError)
            results.status = "interrupted" if stopped else "failed"
            reason = str(error) if told else f"{type(error).__name__}: {error}".rstrip(": ")
            self._emit(events.RunEnd(self.state.summary(), reason))
            raise
        results.status = "finished"
        summary = self.state.summary()
        self._emit(events.RunEnd(summary))
        if self.saving.checkpoints is not None:
            self.saving.checkpoints.finish()
        return summary

    # --- one task -----------------------------------------------------------------------------

    def _train_task(self) -> None:
        position, started = self.position, time.perf_counter()
        task = position.task
        split = self.benchmark.joint() if self.settings.joint else self.benchmark.train(task)
        stream = TaskStream(
            split,
            self.settings.batch_size,
            self._streams,
            task,
            self.settings.epochs,
            self.settings.iterations,
        )
        self._begin_task(stream)
        for epoch in range(position.epoch, stream.epochs):
            self._train_epoch(stream, epoch)
        self._end_task(split, stream, time.perf_counter() - started)

    def _begin_task(self, stream: TaskStream) -> None:
        task, joint = self.position.task, self.settings.joint
        last = self.benchmark.n_tasks - 1 if joint else task
        self.method.task = Task(
            task,
            range(self.benchmark.n_classes) if joint else self.benchmark.classes(task),
            range(max(self.benchmark.classes(t).stop for t in range(last + 1))),
        )
        self.method.train()
        if self.position.task_begins:
            if task > 0 and self.settings.reset_optimizer:
                state = self.state
                state.optimizer, state.scheduler = self._fresh_optimizer(self.method)
            self.method.before_task()
        label = "all tasks" if joint else self.benchmark.label(task)
        self._emit(events.TaskStart(task, label, stream.n, stream.steps, stream.steps_per_epoch))
        self._rate = (time.monotonic(), self.position.global_step)

    def _train_epoch(self, stream: TaskStream, epoch: int) -> None:
        state, position = self.state, self.position
        last = stream.steps_of(epoch)
        for raw, y, labels in stream.batches(epoch, position.step):
            state.loss.add(self._step(raw, y, labels, state.optimizer, position))
            position.step += 1
            position.global_step += 1
            if position.global_step % self.settings.log_every == 0:
                self._log()
            if state.scheduler and self.settings.scheduler_per == "step":
                state.scheduler.step()
            if time.monotonic() >= self._next_tick:
                self._tick(stream)
            if position.step == last:
                self._end_epoch(stream)
            if position.epoch < stream.epochs:
                self._between_steps()

    def _end_epoch(self, stream: TaskStream) -> None:
        position, every = self.position, self.settings.evaluate_every
        position.epoch, position.step = position.epoch + 1, 0
        if self.state.scheduler and self.settings.scheduler_per == "epoch":
            self.state.scheduler.step()
        if every and position.epoch % every == 0 and position.epoch < stream.epochs:
            values = self._evaluate(trained=self._last_task(), boundary=False)
            if self.saving.wants_epochs():
                self.saving.save(position.task, position.epoch, measured=values)

    def _end_task(self, split: Split, stream: TaskStream, seconds: float) -> None:
        position, task, state = self.position, self.position.task, self.state
        self.method.after_task(self._all_of(split))
        self.method.train()
        if state.replay is not None and self.method.stores == "task":
            fields = {"raw": split.x, "y": split.y}
            state.replay.add(fields, {}, split.y.cpu().numpy(), {"task": task})
        values = self._evaluate(trained=self._last_task(), boundary=True)
        position.task, position.epoch, position.step = task + 1, 0, 0
        self._emit(events.TaskEnd(task, position.global_step, seconds, state.summary()))
        self.saving.save(task, stream.epochs, ended=task, measured=values)
        if position.task < self.n_tasks:
            self._leave(self.agreement.read(position.global_step)[0])

    def _all_of(self, split: Split) -> Callable[[int], Iterable[Batch]]:
        """The task's examples without augmentation, in a fixed order, for `after_task`."""

        def data(n: int) -> Iterator[Batch]:
            for raw, y in zip(split.x.split(n), split.y.split(n), strict=True):
                yield Batch(raw, y, self._transform)

        return data

    # --- between steps ------------------------------------------------------------------------

    def _between_steps(self) -> None:
        reason, late = self.agreement.read(self.position.global_step)
        if self.saving.step_due(self.position) or late:
            self.saving.save(self.position.task, self.position.epoch)
        self._leave(reason)

    def _leave(self, reason: str | None) -> None:
        if reason is None:
            return
        self.saving.save_here()
        self.saving.report_saved(wait=True)
        # torchrun ends all ranks soon after the first one leaves: the checkpoint must be there.
        self.agreement.ranks.wait()
        raise PreemptedError(reason)

    def _evaluate(self, trained: int, boundary: bool) -> dict[str, float]:
        """Accuracy on the tasks seen so far (or on all), told to the recorders."""
        started, position = time.perf_counter(), self.position
        everything = self.settings.evaluate_future or self.settings.joint
        n = self.benchmark.n_tasks if everything else trained + 1
        seen = range(0) if trained < 0 else self.method.task.seen
        with self.state.clock.phase("evaluation"):
            counts = self._evaluator.count(range(n), seen)
            accuracy = self.state.results.add(counts, trained, boundary)
        self._emit(
            events.Evaluation(
                position.task,
                position.epoch,
                position.global_step,
                boundary,
                accuracy,
                self.benchmark.split,
                time.perf_counter() - started,
            )
        )
        return measured(accuracy, trained)

    def _log(self) -> None:
        """Read the mean loss since the last time; the one place where a step waits."""
        position, loss = self.position, self.state.loss.read()
        self.saving.require_finite(loss)
        (before, step), now = self._rate, time.monotonic()
        self._rate = (now, position.global_step)
        self._emit(
            events.StepLog(
                position.task,
                position.epoch,
                position.step,
                position.global_step,
                loss,
                float(self.state.optimizer.param_groups[0]["lr"]),
                (position.global_step - step) / max(now - before, 1e-9),
            )
        )

    def _tick(self, stream: TaskStream) -> None:
        position = self.position
        self._next_tick = time.monotonic() + _TICK_SECONDS
        done = position.epoch * stream.steps_per_epoch + position.step
        self._emit(events.Tick(position.task, position.epoch, done, position.global_step))

    # --- small parts --------------------------------------------------------------------------

    def _start(self) -> None:
        self._emit(
            events.RunStart(
                self.folder,
                self.state.config,
                self.state.summary(),
                self.n_tasks,
                sum(p.numel() for p in self.method.trainable()),
                str(self.state.device),
                self.position.global_step,
                self.notices,
            )
        )

    def _last_task(self) -> int:
        return self.benchmark.n_tasks - 1 if self.settings.joint else self.position.task

    def _fresh_optimizer(self, method: Method) -> tuple[torch.optim.Optimizer, Any | None]:
        optimizer = self._make_optimizer(method.trainable())
        return optimizer, self._make_scheduler(optimizer) if self._make_scheduler else None

    def _emit(self, event: events.Event) -> None:
        for recorder in self.recorders:
            recorder.receive(event)
