"""Measurement of one checkpoint on the tasks of a benchmark: load the network, evaluate, record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from perdure.checkpoint.interop import weights
from perdure.config.build import build
from perdure.config.compare import BENCHMARK, changes, is_within
from perdure.config.method_name import method_name
from perdure.config.schema import Config, Mode
from perdure.config.typed import as_plain
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError
from perdure.models.base import Method, Task
from perdure.run import assemble, device_setup
from perdure.run.fork import position_of
from perdure.run.network import grow_as
from perdure.run.predictions import Predictions
from perdure.run.resume import RestorePoint, Weights
from perdure.tracking import events
from perdure.tracking.files import LocalFiles
from perdure.training.checks import check_data
from perdure.training.clock import Clock
from perdure.training.evaluation import Evaluator, measurable
from perdure.training.hooks import Hooks
from perdure.training.recording import Launch
from perdure.training.results import Results
from perdure.training.state import Position

ALL, SEEN = "all", "seen"


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        reference: the checkpoint, as `checkpoint.load` takes it; redacted.
        words: Hydra's flags and overrides.
        tasks: those that the checkpoint has learned ("seen"), "all", or the first so many.
        predictions: whether predictions.npz is written.
    """

    reference: str
    words: tuple[str, ...]
    tasks: str | int = SEEN
    predictions: bool = False


class Measurement:
    """One checkpoint on the tasks of one benchmark.

    Args:
        config: the configuration with which it is measured.
        start: the checkpoint.
        request: what to measure.

    Raises:
        UserError: a part cannot be built, or there are no such tasks.
    """

    def __init__(self, config: Config, start: RestorePoint | Weights, request: Request) -> None:
        self.config = config
        self.start = start
        self.request = request
        self.device = assemble.choose_device(config.device)
        assemble.make_deterministic(config.deterministic, self.device)
        torch.set_num_threads(config.threads or 1)
        self.benchmark: Scenario = assemble.make_benchmark(config, self.device)
        self.position = _position(start)
        self.changed = _changed_benchmark(config, start)
        self.n_seen = self._n_seen()
        every = request.tasks == ALL
        self.tasks = range(self.benchmark.n_tasks if every else self.n_seen)
        self.transform = build(config.dataset.transform, "dataset.transform")
        self._check_data()
        self.predictions = Predictions(self.benchmark, self.tasks, request.predictions)
        self.method: Method

    def load(self) -> list[str]:
        """Build the network and fill it from the checkpoint; returns what the user should know.

        Raises:
            UserError: it does not fit.
        """
        self.method = assemble.make_method(self.config, self.benchmark, self.device)
        if self.config.threads is None:
            n = sum(p.numel() for p in self.method.parameters())
            torch.set_num_threads(device_setup.threads_of(n, 1, Launch().ranks))
        if isinstance(self.start, RestorePoint):
            self._load_full(self.start)
            return []
        opened, options = self.start.opened, self.config.checkpoint
        grow_as(self.method.backbone, opened.weights, self.config, self.benchmark)
        self.method.to(self.device)
        report = weights.fill(
            self.method.backbone, opened.weights, allow_missing=options.allow_missing
        )
        return [f"{opened.path.name} ({opened.kind}): {line}" for line in report.lines()]

    def run(
        self, folder: Path, timestamp: str, clock: Clock, notices: Sequence[str]
    ) -> dict[str, Any]:
        """Evaluate, and write what was found to `folder`; returns what results.json holds."""
        benchmark = self.benchmark
        sized = assemble.within_budget(self.config, benchmark, self.device)
        facts = assemble.facts(replace(sized, timestamp=timestamp), benchmark, self.device)
        accuracies = measurable(self.method, benchmark)
        results = Results(accuracies, benchmark.n_tasks, facts, benchmark.accuracies)
        with clock.phase("evaluation"):
            accuracy = self._count(results)
        # Only now, so that a failure leaves nothing behind.
        recorder = LocalFiles(folder)
        recorder.receive(self._run_start(folder, results, notices))
        seconds = clock.totals()["seconds"]["evaluation"]
        recorder.receive(self._evaluation(accuracy, seconds))
        if self.request.predictions:
            self.predictions.write(folder)
        results.facts["evaluation"] = self._about(accuracy)
        results.status = "finished"
        at = {} if self.position is None else {"global_step": self.position.global_step}
        summary = results.summary(tasks_done=self.n_seen, **at, **clock.totals())
        recorder.receive(events.RunEnd(summary))
        return summary

    # --- measuring ----------------------------------------------------------------------------

    def _count(self, results: Results) -> dict[str, list[float]]:
        """Accuracy by name and task; `results` has it as the row of the last task learned."""
        last = self.n_seen - 1
        seen = self.benchmark.seen(last)
        self.method.task = Task(last, Classes.of(self.benchmark.classes(last)), seen)
        self._prepare(last)
        evaluator = Evaluator(
            self.method, self.benchmark, self.transform, self.config.training.eval_batch_size
        )
        counts = evaluator.count(self.tasks, seen, range(self.n_seen), self.predictions)
        if self.config.training.mode is not Mode.joint:
            for task in range(last):
                results.skip(task)
        return results.add(counts, last, boundary=True)

    def _prepare(self, last: int) -> None:
        """Let the method derive what it predicts with, from the buffer and the last task's data."""
        if not self.method.defines("before_evaluation"):
            return
        if not isinstance(self.start, RestorePoint):
            name = method_name(self.config)
            raise UserError(
                f"checkpoint={self.request.reference}: {name} predicts with what it derives from "
                "its buffer, which a file of weights alone has not; give a full checkpoint"
            )
        sized = assemble.within_budget(self.config, self.benchmark, self.device)
        buffer = assemble.make_buffer(sized, self.benchmark)
        if buffer is not None:
            buffer.load_state_dict(self.start.state["buffer"], self.device)
        settings = assemble.settings(self.config)
        hooks = Hooks(self.method, self.benchmark, settings, self.transform, buffer)
        joint = self.config.training.mode is Mode.joint
        hooks.before_evaluation(self.benchmark.joint() if joint else self.benchmark.train(last))

    def _about(self, accuracy: dict[str, list[float]]) -> dict[str, Any]:
        """The entry `evaluation` of results.json."""
        calibration = self.predictions.calibration
        tasks = [
            {
                "task": task,
                "label": self.benchmark.label(task),
                "seen": task < self.n_seen,
                "examples": self.benchmark.n_evaluation(task),
                **{name: row[task] for name, row in accuracy.items()},
                "expected_calibration_error": calibration[task].error(),
            }
            for task in self.tasks
        ]
        among = [calibration[task] for task in range(self.n_seen)]
        return {
            **self._source(),
            "tasks": tasks,
            "calibration": sum(among[1:], start=among[0]).as_json(),
        }

    def _source(self) -> dict[str, Any]:
        start = self.start
        kind = "perdure" if isinstance(start, RestorePoint) else start.opened.kind
        path = start.path if isinstance(start, RestorePoint) else start.opened.path
        return {
            "checkpoint": self.request.reference,
            "file": path.name,
            "kind": kind,
            "position": None if self.position is None else self.position.as_dict(),
            "other_benchmark": self.changed,
        }

    def _run_start(self, folder: Path, results: Results, notices: Sequence[str]) -> events.RunStart:
        asked = {"checkpoint": self.request.reference, "tasks": self.request.tasks,
                 "predictions": self.request.predictions}  # fmt: skip
        timestamp = results.facts["timestamp"]
        # The added group makes it the configuration of no run that could be resumed here.
        config = {**as_plain(replace(self.config, timestamp=timestamp)), "evaluate": asked}
        n = sum(p.numel() for p in self.method.trainable())
        return events.RunStart(
            folder, config, results.summary(), self.benchmark.n_tasks, n, str(self.device),
            notices=tuple(notices),
        )  # fmt: skip

    def _evaluation(self, accuracy: dict[str, list[float]], seconds: float) -> events.Evaluation:
        at = self.position or Position()
        return events.Evaluation(
            self.n_seen - 1, at.epoch, at.global_step, True, accuracy, self.benchmark.split, seconds
        )

    # --- the checkpoint -----------------------------------------------------------------------

    def _load_full(self, point: RestorePoint) -> None:
        settings = assemble.settings(self.config)
        hooks = Hooks(self.method, self.benchmark, settings, self.transform)
        last = 0 if self.position is None else self.position.last_begun
        hooks.grow_to(min(max(last, 0), self.benchmark.n_tasks - 1))
        try:
            self.method.load_state_dict(point.state["model"])
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            n, name = self.benchmark.n_classes, self.config.dataset.name
            if self.changed:
                raise UserError(
                    f"dataset={name}: its {n} classes or its images do not fit the network in "
                    f"{point.origin} ({reason}); choose a benchmark with as many classes and "
                    "images of that shape"
                ) from error
            raise UserError(
                f"{point.origin}: its network does not fit this configuration ({reason}); leave "
                "model and backbone as they were"
            ) from error

    def _check_data(self) -> None:
        """Refuse tasks without examples to measure, and a transform that does not fit."""
        only = replace(
            assemble.settings(self.config),
            mode=Mode.continual,
            stop_after=len(self.tasks),
            evaluate_future=False,
        )
        check_data(self.benchmark, only, self.transform, [1] * self.benchmark.n_tasks)

    def _n_seen(self) -> int:
        """How many tasks count as learned.

        Raises:
            UserError: none, or more than there are.
        """
        n, asked = self.benchmark.n_tasks, self.request.tasks
        if isinstance(asked, int):
            if not 1 <= asked <= n:
                raise UserError(f"tasks={asked}: must be 1 to {n}, all or seen")
            return asked
        if self.position is None or self.changed:
            return n
        if self.config.training.mode is Mode.joint:
            return n
        learned = self.position.task + (not self.position.task_begins)
        if learned == 0:
            raise UserError(
                f"{self.request.reference}: nothing is learned there yet; tasks=1 measures the "
                "first task all the same"
            )
        return min(learned, n)


def _position(start: RestorePoint | Weights) -> Position | None:
    """Where training stood; None where the file does not say."""
    return position_of(start) if isinstance(start, RestorePoint) else None


def _changed_benchmark(config: Config, start: RestorePoint | Weights) -> list[str]:
    """What of the benchmark is another than in the checkpoint's configuration, for people."""
    if not isinstance(start, RestorePoint):
        return []
    found = changes(as_plain(config), start.config.args)
    return [str(change) for change in found if is_within(change.key, BENCHMARK)]
