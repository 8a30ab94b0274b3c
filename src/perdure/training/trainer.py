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
from perdure.errors import DivergenceError, UserError
from perdure.models.base import Method, Task
from perdure.optim import SGD
from perdure.randomness import Streams
from perdure.tracking import events
from perdure.training.clock import Clock
from perdure.training.evaluation import Evaluator
from perdure.training.results import Results
from perdure.training.settings import Settings
from perdure.training.state import Checkpoints, Position
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
    ) -> None:
        self.method = method
        self.benchmark = benchmark
        self.settings = settings
        self.buffer = buffer if method.replays else None
        self.recorders = recorders
        self.checkpoints = checkpoints
        self.config = config or {}
        self.folder = folder or Path()
        self.notices = tuple(notices)
        self.clock = clock or Clock()
        self.position = Position()
        self._check()
        self.device = next(method.parameters()).device
        self.streams = Streams(settings.seed)
        transform = transform or Scale()
        self._step = Step(method, transform, self.buffer, self.streams, settings, self.device)
        self._evaluator = Evaluator(method, benchmark, transform, settings.eval_batch_size)
        self._transform = transform
        self._make_optimizer = optimizer or (lambda params: SGD(params, lr=0.1))
        self._make_scheduler = scheduler
        self._fresh_optimizer()
        self.results = Results(benchmark.accuracies, benchmark.n_tasks, facts or {})
        self.n_tasks = 1 if settings.joint else settings.stop_after or benchmark.n_tasks
        self._loss_sum = torch.zeros((), device=self.device)
        self._loss_steps = 0
        self._rate = (time.monotonic(), 0)
        self._next_tick = 0.0

    def fit(self) -> dict[str, Any]:
        """Train all tasks from where the position stands; returns what results.json holds.

        Raises:
            DivergenceError: the loss or a weight is not a finite number any more.
        """
        self._start()
        try:
            if self.settings.evaluate_future and self.position.global_step == 0:
                self._evaluate(trained=-1, boundary=True)
            while self.position.task < self.n_tasks:
                with self.clock.phase("training"):
                    self._train_task()
        except BaseException as error:
            known = isinstance(error, (DivergenceError, KeyboardInterrupt))
            interrupted = isinstance(error, KeyboardInterrupt)
            self.results.status = "interrupted" if interrupted else "failed"
            told = str(error) if known else f"{type(error).__name__}: {error}"
            self._emit(events.RunEnd(self._summary(), "interrupted" if interrupted else told))
            raise
        self.results.status = "finished"
        summary = self._summary()
        self._emit(events.RunEnd(summary))
        if self.checkpoints is not None:
            self.checkpoints.finish()
        return summary

    # --- what survives ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that must survive, by the names that a full checkpoint gives it."""
        scaler = self._step.scaler
        return {
            "model": dict(self.method.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": scaler.state_dict() if scaler else None,
            "buffer": self.buffer.state_dict() if self.buffer is not None else None,
            "rng": {"seed": self.settings.seed, "streams": "philox4x64"},
            "position": self.position.as_dict(),
            "args": self.config,
            "results": {
                "summary": self._summary(),
                "measured": self.results.state_dict(),
                "loss_sum": self._loss_sum,
                "loss_steps": self._loss_steps,
                "clock": self.clock.state_dict(),
                "recorders": {r.name: r.state_dict() for r in self.recorders},
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict()` was taken."""
        self.method.load_state_dict(state["model"])
        self.position = Position(**state["position"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        if self._step.scaler:
            self._step.scaler.load_state_dict(state["scaler"])
        if self.buffer is not None:
            self.buffer.load_state_dict(state["buffer"], self.device)
        results = state["results"]
        self.results.load_state_dict(results["measured"])
        self._loss_sum.copy_(results["loss_sum"])
        self._loss_steps = results["loss_steps"]
        self.clock.load_state_dict(results["clock"])
        for recorder in self.recorders:
            if recorder.name in results["recorders"]:
                recorder.load_state_dict(results["recorders"][recorder.name])

    # --- one task -----------------------------------------------------------------------------

    def _train_task(self) -> None:
        position, started = self.position, time.perf_counter()
        task = position.task
        split = self.benchmark.joint() if self.settings.joint else self.benchmark.train(task)
        stream = TaskStream(
            split,
            self.settings.batch_size,
            self.streams,
            task,
            self.settings.epochs,
            self.settings.iterations,
        )
        self._begin_task(stream)
        for epoch in range(position.epoch, stream.epochs):
            self._train_epoch(stream, epoch)
        self._end_task(split, time.perf_counter() - started)

    def _begin_task(self, stream: TaskStream) -> None:
        task = self.position.task
        joint = self.settings.joint
        last = self.benchmark.n_tasks - 1 if joint else task
        self.method.task = Task(
            task,
            range(self.benchmark.n_classes) if joint else self.benchmark.classes(task),
            range(max(self.benchmark.classes(t).stop for t in range(last + 1))),
        )
        self.method.train()
        if self.position.task_begins:
            if task > 0 and self.settings.reset_optimizer:
                self._fresh_optimizer()
            self.method.before_task()
        label = "all tasks" if joint else self.benchmark.label(task)
        self._emit(events.TaskStart(task, label, stream.n, stream.steps, stream.steps_per_epoch))
        self._rate = (time.monotonic(), self.position.global_step)

    def _train_epoch(self, stream: TaskStream, epoch: int) -> None:
        position = self.position
        last = stream.steps_of(epoch)
        for raw, y, labels in stream.batches(epoch, position.step):
            loss = self._step(raw, y, labels, self.optimizer, position)
            self._loss_sum += loss
            self._loss_steps += 1
            position.step += 1
            position.global_step += 1
            if position.global_step % self.settings.log_every == 0:
                self._log()
            if self.scheduler and self.settings.scheduler_per == "step":
                self.scheduler.step()
            if time.monotonic() >= self._next_tick:
                self._tick(stream)
            if position.step == last:
                self._end_epoch(stream)
            ended = position.epoch == stream.epochs
            if self.checkpoints is not None and not ended and self.checkpoints.due(position):
                self._save(None)

    def _end_epoch(self, stream: TaskStream) -> None:
        position = self.position
        position.epoch, position.step = position.epoch + 1, 0
        if self.scheduler and self.settings.scheduler_per == "epoch":
            self.scheduler.step()
        every = self.settings.evaluate_every
        if every and position.epoch % every == 0 and position.epoch < stream.epochs:
            self._evaluate(trained=self._last_task(), boundary=False)

    def _end_task(self, split: Split, seconds: float) -> None:
        position, task = self.position, self.position.task
        self.method.after_task(self._all_of(split))
        self.method.train()
        if self.buffer is not None and self.method.stores == "task":
            self._remember_task(split)
        self._evaluate(trained=self._last_task(), boundary=True)
        position.task, position.epoch, position.step = task + 1, 0, 0
        self._emit(events.TaskEnd(task, position.global_step, seconds, self._summary()))
        if self.checkpoints is not None:
            self._save(task)

    def _all_of(self, split: Split) -> Callable[[int], Iterable[Batch]]:
        """The task's examples without augmentation, in a fixed order, for `after_task`."""

        def data(n: int) -> Iterator[Batch]:
            for raw, y in zip(split.x.split(n), split.y.split(n), strict=True):
                yield Batch(raw, y, self._transform)

        return data

    def _remember_task(self, split: Split) -> None:
        """Offer the whole task to the buffer."""
        assert self.buffer is not None
        generator = self.streams.numpy("remember", task=self.position.task)
        self.buffer.add({"raw": split.x, "y": split.y}, split.y.cpu().numpy(), generator)

    # --- between steps ------------------------------------------------------------------------

    def _evaluate(self, trained: int, boundary: bool) -> None:
        started = time.perf_counter()
        position = self.position
        everything = self.settings.evaluate_future or self.settings.joint
        n = self.benchmark.n_tasks if everything else trained + 1
        seen = range(0) if trained < 0 else self.method.task.seen
        with self.clock.phase("evaluation"):
            counts = self._evaluator.count(range(n), seen)
            accuracy = self.results.add(counts, trained, boundary)
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

    def _log(self) -> None:
        """Read the mean loss since the last time; the one place where a step waits."""
        position = self.position
        loss = float(self._loss_sum) / self._loss_steps
        self._loss_sum.zero_()
        self._loss_steps = 0
        self._require_finite(loss)
        before, step = self._rate
        now = time.monotonic()
        rate = (position.global_step - step) / max(now - before, 1e-9)
        self._rate = (now, position.global_step)
        self._emit(
            events.StepLog(
                position.task,
                position.epoch,
                position.step,
                position.global_step,
                loss,
                float(self.optimizer.param_groups[0]["lr"]),
                rate,
            )
        )

    def _tick(self, stream: TaskStream) -> None:
        position = self.position
        self._next_tick = time.monotonic() + _TICK_SECONDS
        done = position.epoch * stream.steps_per_epoch + position.step
        self._emit(events.Tick(position.task, position.epoch, done, position.global_step))

    def _save(self, task: int | None) -> None:
        """Keep the state; `task` is the one that has just ended, if any."""
        assert self.checkpoints is not None
        started = time.perf_counter()
        self._require_finite(float(self._loss_sum))
        with self.clock.phase("checkpoint"):
            finite = [p.isfinite().all() for p in self.method.trainable()]
            if not torch.stack(finite).all():
                self._require_finite(float("nan"))
            path = self.checkpoints.save(self.state_dict(), self.position, task)
        if path is not None:
            now = self.position.task if task is None else task
            seconds = time.perf_counter() - started
            self._emit(events.CheckpointWritten(path, now, self.position.global_step, seconds))

    def _require_finite(self, loss: float) -> None:
        if loss - loss == 0:
            return
        position = self.position
        raise DivergenceError(
            f"training diverged: the loss or a weight became {loss} by step "
            f"{position.global_step} (task {position.task}, epoch {position.epoch}); a smaller "
            "optimizer.lr or a training.clip_norm usually helps"
        )

    # --- small parts --------------------------------------------------------------------------

    def _start(self) -> None:
        self._emit(
            events.RunStart(
                self.folder,
                self.config,
                self._summary(),
                self.n_tasks,
                sum(p.numel() for p in self.method.trainable()),
                str(self.device),
                self.position.global_step,
                self.notices,
            )
        )

    def _last_task(self) -> int:
        return self.benchmark.n_tasks - 1 if self.settings.joint else self.position.task

    def _fresh_optimizer(self) -> None:
        self.optimizer = self._make_optimizer(self.method.trainable())
        self.scheduler = self._make_scheduler(self.optimizer) if self._make_scheduler else None

    def _summary(self) -> dict[str, Any]:
        position = self.position
        return self.results.summary(
            tasks_done=position.task, global_step=position.global_step, **self.clock.totals()
        )

    def _emit(self, event: events.Event) -> None:
        for recorder in self.recorders:
            recorder.receive(event)

    def _check(self) -> None:
        """Refuse combinations that make no sense."""
        method, name = self.method, type(self.method).__name__
        if method.replays and self.buffer is None:
            raise UserError(f"{name} replays from a buffer: give it one")
        if self.benchmark.kind not in method.scenarios:
            raise UserError(
                f"{name} is defined for {' and '.join(method.scenarios)} benchmarks, not for a "
                f"{self.benchmark.kind} one"
            )
        if self.settings.joint and not method.joint:
            raise UserError(f"{name} cannot train jointly")
        stop = self.settings.stop_after
        if stop is not None and stop > self.benchmark.n_tasks:
            raise UserError(
                f"dataset.stop_after={stop}: the benchmark has {self.benchmark.n_tasks} tasks"
            )
