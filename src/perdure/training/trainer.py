"""The training loop: tasks, epochs, steps; evaluation, logging and checkpoints between them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from perdure.buffers.base import Buffer
from perdure.config.schema import Parallel, Per
from perdure.datasets.arrays import Split
from perdure.datasets.scenarios import Scenario
from perdure.datasets.streams import TaskStream
from perdure.datasets.transforms import Scale
from perdure.distributed.control_flags import ControlFlags
from perdure.errors import DivergenceError, PeerLostError, PreemptedError, UserError
from perdure.models.base import Method
from perdure.models.phase import MAIN, Phase
from perdure.models.replay import uses_buffer
from perdure.randomness import Streams
from perdure.tracking import events
from perdure.training.checks import (
    check,
    check_data,
    check_optimizer,
    joined_batches,
    sizes,
    smallest_batch,
    smallest_phase_batch,
)
from perdure.training.clock import Clock
from perdure.training.cost import PROBED_STEP, CostLedger
from perdure.training.evaluation import Evaluator, is_due, measurable
from perdure.training.hooks import Hooks
from perdure.training.measuring import Measuring
from perdure.training.optim import OptimizerFactory, add_new_parameters
from perdure.training.phases import Phases
from perdure.training.progress import Progress
from perdure.training.recording import Launch, Recording
from perdure.training.results import Results
from perdure.training.saving import CheckpointHook
from perdure.training.schedules import constant_rate
from perdure.training.settings import Settings
from perdure.training.state import Position, TrainState
from perdure.training.step import Step


class Trainer:
    """Trains a method on a benchmark and measures what it keeps.

    Args:
        method: the method, on its device.
        benchmark: the tasks, on the same device.
        settings: how to train.
        optimizers: makes the optimizer and its scheduler.
        buffer: the replay buffer; needed when `method.replays` is above 0.
        transform: raw bytes to inputs.
        recording: recorders, checkpoints and the facts of the run; nothing by default.
        launch: the ranks and the signals of this process; a process alone by default.
    """

    def __init__(
        self,
        method: Method,
        benchmark: Scenario,
        settings: Settings,
        optimizers: OptimizerFactory | None = None,
        buffer: Buffer | None = None,
        transform: Scale | None = None,
        recording: Recording | None = None,
        launch: Launch | None = None,
    ) -> None:
        recording, launch = recording or Recording(), launch or Launch()
        ranks, split = launch.ranks, settings.parallel is Parallel.fsdp and launch.ranks.size > 1
        transform = transform or Scale()
        check(method, benchmark, settings, buffer, ranks.size)
        n_examples = sizes(benchmark, settings)
        check_data(benchmark, settings, transform, n_examples)
        self._least = smallest_batch(method, benchmark, settings, n_examples)
        device = next(method.parameters()).device
        self.benchmark = benchmark
        self.settings = settings
        self.recording = recording
        self.n_tasks = 1 if settings.joint else settings.stop_after or benchmark.n_tasks
        self._streams = Streams(settings.seed)
        self._transform = transform
        time_due = recording.checkpoints.time_due if recording.checkpoints else lambda: False
        self._control = ControlFlags(ranks, device, launch.stop, time_due)
        buffer = buffer if uses_buffer(method) else None
        self._hooks = Hooks(method, benchmark, settings, transform, buffer)
        joint = settings.joint
        tasks = [self._hooks.task(t) for t in range(1 if joint else benchmark.n_tasks)]
        self._phases = Phases(
            method,
            settings,
            self._streams,
            n_examples,
            tasks,
            optimizers or OptimizerFactory(),
            self._hooks.memory,
            (self._least, smallest_phase_batch(method, benchmark, settings)),
        )
        self._phases.check(measurable(method, benchmark))
        self._hooks.grow_to(0)
        self._step = Step(
            method,
            self._transform,
            buffer,
            self._streams,
            settings,
            device,
            self._control,
        )
        evaluator = Evaluator(
            method, benchmark, self._transform, settings.eval_batch_size, ranks, split
        )
        clock = Clock(launch.started)
        self._cost = CostLedger(method, clock, ranks, settings.n_shards)
        self.state = TrainState(
            method,
            *self._phases.main_optimizer(0),
            self._step.scaler,
            self._step.replay,
            Results(evaluator.accuracies, benchmark.n_tasks, recording.facts, benchmark.accuracies),
            clock,
            recording.recorders,
            seed=settings.seed,
            config=recording.config,
            split=split,
            cost=self._cost,
        )
        self.saving = CheckpointHook(
            self.state, recording.checkpoints, settings.joint, benchmark.split, recording.emit
        )
        check_optimizer(method, self.state.optimizer)
        self._measure = Measuring(
            evaluator, self._hooks, self.state, settings, recording.emit, recording.evaluation
        )
        self._probing = self._measure.probing
        self._progress = Progress(recording, self.state)

    @property
    def method(self) -> Method:
        """The method that is trained."""
        return self.state.method

    @property
    def position(self) -> Position:
        """The training position: task, epoch, step."""
        return self.state.position

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: `TrainState.state_dict`."""
        return self.state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly the point where `state_dict()` was taken."""
        self.grow_to(Position(**state["position"]))
        self.state.load_state_dict(state)

    def grow_to(self, position: Position) -> None:
        """Give the method, and its optimizer, the structure that they have at `position`.

        A task that begins there has not been grown into yet.

        Raises:
            ValueError: the task has no such phase.
        """
        if self._hooks.grows:
            last = min(position.last_begun, self.n_tasks - 1)
            self._hooks.grow_to(last, self._renew_optimizer)
        if position.task < self.n_tasks and not position.task_begins:
            phases = self._phases.of(position.task)
            if not 0 <= position.phase < len(phases):
                raise ValueError(f"task {position.task} has no phase {position.phase}")
            phase = phases[position.phase]
            if not phase.is_main:
                self.state.use(*self._phases.own_optimizer(phase))

    def fit(self, notices: Sequence[str] = ()) -> dict[str, Any]:
        """Train all tasks from the current position on; returns what results.json holds.

        Args:
            notices: sentences that recorders show once at the start.

        Raises:
            DivergenceError: the loss or a weight is no longer finite.
            PreemptedError: `stop` gave a reason; the state is saved.
        """
        lengths = self._phases.schedule_lengths
        schedule = constant_rate(self.state.scheduler, self.settings, lengths)
        notices = [*notices, *filter(None, (schedule, joined_batches(self._least)))]
        self._progress.start(self.n_tasks, notices)
        results = self.state.results
        try:
            if self.settings.evaluate_future and self.position.global_step == 0:
                self._measure.untrained()
            while self.position.task < self.n_tasks:
                with self.state.clock.phase("training"):
                    self._train_task()
            self.saving.report_saved(wait=True)
        except BaseException as error:
            stopped = isinstance(error, PreemptedError | KeyboardInterrupt | PeerLostError)
            worded = isinstance(error, PreemptedError | DivergenceError | UserError)
            results.status = "interrupted" if stopped else "failed"
            reason = str(error) if worded else f"{type(error).__name__}: {error}".rstrip(": ")
            self.recording.emit(events.RunEnd(self.state.summary(), reason))
            raise
        results.status = "finished"
        summary = self.state.summary()
        self.recording.emit(events.RunEnd(summary))
        # After the recorders: the files that a resume needs go only once the results are written.
        if self.recording.checkpoints is not None:
            self.recording.checkpoints.finish()
        return summary

    # --- one task -----------------------------------------------------------------------------

    def _train_task(self) -> None:
        position, started = self.position, time.perf_counter()
        task = position.task
        split = self.benchmark.joint() if self.settings.joint else self.benchmark.train(task)
        self._begin_task(split)
        phases = self._phases.of(task)
        for number in range(position.phase, len(phases)):
            if phases[number].after_storing and not phases[position.phase].after_storing:
                self._store(split)
            self._train_phase(phases, number, split)
        if not phases[-1].after_storing:
            self._store(split)
        self._end_task(time.perf_counter() - started)

    def _begin_task(self, split: Split) -> None:
        """The order of a task's beginning: `grow`, the optimizer, `before_task`."""
        task = self.position.task
        self._hooks.grow_to(task)
        self.method.task = self._hooks.task(task)
        self.method.train()
        if self.position.task_begins:
            if task > 0:
                self._renew_optimizer(task)
            self._hooks.before_task(split)
        self._split = split

    def _train_phase(self, phases: Sequence[Phase], number: int, split: Split) -> None:
        """Train a phase from the current position on; one without examples is skipped."""
        position, phase, task = self.position, phases[number], self.method.task
        begins = position.task_begins or number > position.phase
        if begins:
            position.begin_phase(number)
        if phase.data == "all-seen":
            split = self.benchmark.joint(task.index + 1)
        stream = self._phases.stream(phase, task, split, position.phase_start)
        if not stream.steps:
            return
        task.phase, task.epochs = phase.name, stream.epochs
        task.steps_per_epoch = stream.steps_per_epoch
        self._step.begin(phase)
        if begins:
            if phase.is_main:
                self.state.use_main()
            else:
                self.state.use(*self._phases.own_optimizer(phase, stream))
            self._hooks.before_phase(phase, number, stream.split)
        label = "all tasks" if self.settings.joint else self.benchmark.label(task.index)
        label = label if phase.is_main else f"{label} ({phase.name})"
        self._cost.begin(task.index, phase.name, phase.data)
        self._progress.begin(label, stream)
        self._is_last = number == len(phases) - 1
        for epoch in range(position.epoch, stream.end):
            self._train_epoch(stream, epoch)

    def _renew_optimizer(self, task: int) -> None:
        """A fresh optimizer for `task`, or the kept one with the parameters that are new."""
        state = self.state
        if self._hooks.grows:
            self._step.renew_parameters()
        if self.settings.reset_optimizer:
            state.optimizer, state.scheduler = self._phases.main_optimizer(task)
        else:
            add_new_parameters(state.optimizer, self.method.parameter_groups(MAIN))

    def _train_epoch(self, stream: TaskStream, epoch: int) -> None:
        """The steps of an epoch from the current position on.

        The host only queues work: the loss is added up on the device, and read every `log_every`
        steps. Position and scheduler move before anything is saved, so that a checkpoint names
        the next step, and resuming repeats none.
        """
        state, position, task = self.state, self.position, self.method.task
        last = stream.steps_of(epoch)
        probed = min(PROBED_STEP, last - 1) if epoch == stream.first_epoch else -1
        task.epoch = epoch - stream.first_epoch
        for raw, y, labels in stream.batches(epoch, position.step):
            task.step, task.lr = position.step, state.optimizer.param_groups[0]["lr"]
            if not self.benchmark.boundaries:
                self._hooks.see(position.step * stream.batch_size + len(labels))
            self._probing.before_step(raw, y, self._split)
            step = self._probed_step if position.step == probed else self._step
            loss = step(raw, y, labels, state.optimizer, position)
            self._cost.add(*self._step.examples)
            state.loss.add(loss)
            if self._step.logged:
                state.log(self._step.logged)
            position.step += 1
            position.global_step += 1
            self._probing.after_step(loss, self._split)
            if position.global_step % self.settings.log_every == 0:
                self.saving.require_finite_mean(self._progress.log())
            if loss is not None:
                self._step_scheduler(Per.step)
            self._progress.tick(stream)
            if position.step == last:
                self._end_epoch(stream)
            if not self._is_over(stream):
                self._between_steps()

    def _probed_step(self, *batch: Any) -> Tensor | None:
        """A step whose cost is counted as well."""
        probe = self._cost.probe()
        loss = self._step.probed(probe, *batch)
        self._cost.probed(probe)
        return loss

    def _is_over(self, stream: TaskStream) -> bool:
        """Whether `stream` was the task's last one, and is done."""
        return self._is_last and self.position.epoch == stream.end

    def _end_epoch(self, stream: TaskStream) -> None:
        position, every = self.position, self.settings.evaluate_every
        position.epoch, position.step = position.epoch + 1, 0
        self._step_scheduler(Per.epoch)
        if every and position.epoch % every == 0 and not self._is_over(stream):
            self.saving.require_finite_state()
            values = self._measure(self._split, boundary=False)
            if self.saving.wants_epochs():
                self.saving.save(position.task, position.epoch, measured=values)

    def _store(self, split: Split) -> None:
        """The task is trained: `after_task`, and its examples are offered to the buffer."""
        self.saving.require_finite_state()
        stored, info = self._hooks.after_task(split)
        if self.state.replay is not None and self._hooks.stores:
            fields, labels = {"raw": split.x, "y": split.y}, split.y.cpu().numpy()
            at = {"task": self.position.task}
            self.state.replay.add(fields, stored, labels, at, info)

    def _end_task(self, seconds: float) -> None:
        """The order of a task's end, when its examples are stored: evaluation, checkpoint.

        The position moves to the next task before the checkpoint is written, so that it resumes
        there, with this task's evaluation in it and the exemplars in the buffer.
        """
        position, task, state = self.position, self.position.task, self.state
        self.saving.require_finite_state()
        state.use_main()
        values: dict[str, float] = {}
        if is_due(task, self.n_tasks, self.settings.evaluate_every_task):
            values = self._measure(self._split, boundary=True)
        else:
            state.results.skip(task)
        epochs = position.epoch
        position.begin_task(task + 1)
        self.recording.emit(events.TaskEnd(task, position.global_step, seconds, state.summary()))
        self.saving.save(task, epochs, ended=task, measured=values)
        if position.task < self.n_tasks:
            self._exit_if(self._control.read(position.global_step)[0])

    def _step_scheduler(self, counted: Per) -> None:
        """Step the scheduler after each of what it counts; one on a plateau follows accuracy."""
        scheduler = self.state.scheduler
        if scheduler is None or self.settings.scheduler_per is not counted:
            return
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    # --- between steps ------------------------------------------------------------------------

    def _between_steps(self) -> None:
        reason, time_due = self._control.read(self.position.global_step)
        if self.saving.step_due(self.position) or time_due:
            self.saving.save(self.position.task, self.position.epoch)
        self._exit_if(reason)

    def _exit_if(self, reason: str | None) -> None:
        if reason is None:
            return
        self.saving.save_here()
        self.saving.report_saved(wait=True)
        # torchrun ends all ranks soon after the first one exits: the checkpoint must be written.
        self._control.ranks.barrier()
        raise PreemptedError(reason)
