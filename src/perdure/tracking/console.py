"""Console recorder: header of a run, progress bar with ETA, accuracies after each task, summary."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from perdure.errors import printable
from perdure.tracking.events import (
    CheckpointSaved,
    Recorder,
    RunEnd,
    RunStart,
    StepLog,
    TaskEnd,
    TaskStart,
    Tick,
)
from perdure.tracking.formatting import (
    TextTable,
    accuracy_table,
    countdown,
    duration,
    last_rows,
    run_title,
    summary_table,
    training_rate,
)
from perdure.tracking.terminal import Display, PlainDisplay, Progress, TerminalDisplay

logger = logging.getLogger("perdure")

STYLES = {"finished": "bold green", "interrupted": "bold yellow", "failed": "bold red"}
RATE_DECAY_SECONDS = 3.0


class Console(Recorder):
    """Shows a run on `stream` (standard output) and writes the same to the logger `perdure`.

    `plain` is no color, no live line: the default where the stream is not a terminal. Tasks are
    named by their index from 0, as in the files; `(3/5)` counts them.
    """

    name = "console"

    def __init__(self, stream: TextIO | None = None, plain: bool | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        if plain is None:
            plain = not stream.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}
        self._display: Display = (
            PlainDisplay(stream, time.monotonic()) if plain else TerminalDisplay(stream)
        )
        self._folder = Path()
        self._pace = Pace(n_tasks=1, global_step=0)
        self._label = ""
        self._is_joint = False
        self._loss: float | None = None

    def on_run_start(self, event: RunStart) -> None:
        """Print what is about to run, where, and the notices."""
        results = event.results
        self._folder = event.folder
        self._pace = Pace(event.n_tasks, event.global_step)
        self._is_joint = results.get("training") == "joint"
        tasks = f"{results.get('n_tasks', event.n_tasks)} tasks{' at once' * self._is_joint}"
        self._print(f"{run_title(results)}, {tasks}, seed {results.get('seed', '?')}", "bold")
        self._print(f"  {event.n_parameters:,} backbone parameters on {event.device}")
        self._print(f"  run folder {event.folder}")
        if event.global_step:
            self._print(f"  resuming after step {event.global_step:,}", "yellow")
        for notice in event.notices:
            self._print(f"  note: {notice}", "yellow")

    def on_task_start(self, event: TaskStart) -> None:
        """Print a line to a plain stream; on a terminal the live line shows as much."""
        self._pace.start_task(event, time.monotonic())
        self._label = event.label
        self._loss = None
        counts = f"{event.n_examples:,} examples, {event.steps:,} steps"
        line = f"{self._task()}: {event.label}, {counts}"
        if isinstance(self._display, PlainDisplay):
            self._print(line)
        else:
            logger.info("%s", printable(line))

    def on_step_log(self, event: StepLog) -> None:
        """Store the loss for the next refresh."""
        self._loss = event.loss

    def on_tick(self, event: Tick) -> None:
        """Refresh the progress."""
        now = time.monotonic()
        self._pace.tick(event, now)
        self._display.show_progress(self._progress(event), now)

    def on_task_end(self, event: TaskEnd) -> None:
        """Print the accuracies on all tasks seen, where they were measured."""
        self._print(f"after {self._task()}: {self._label}, {duration(event.seconds)}", "bold")
        if last_rows(event.results):
            table = accuracy_table(event.results, self._pace.n_tasks, self._display.width)
            self._print_table(table)

    def on_checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Log it only: rolling checkpoints would flood the terminal."""
        facts = (printable(event.path.name), event.task, event.global_step)
        logger.info("checkpoint %s (task %d, step %d)", *facts)

    def on_run_end(self, event: RunEnd) -> None:
        """Print how the run ended, its metrics, its cost, and its folder."""
        results = event.results
        status = str(results.get("status", "finished"))
        self._print(_ending(status, results, event.error), STYLES.get(status, "bold"))
        if any(value is not None for value in (results.get("average_accuracy") or {}).values()):
            self._print_table(summary_table(results))
        for line in _costs(results):
            self._print(f"  {line}")
        self._print(f"  run folder {self._folder}")

    def notify(self, sentence: str) -> None:
        """Show a message of another recorder."""
        self._print(f"  {sentence}", "yellow")

    def _print(self, line: str, style: str = "") -> None:
        line = printable(line)
        self._display.print_line(line, style)
        logger.info("%s", line)

    def _print_table(self, table: TextTable) -> None:
        table = table.printable()
        self._display.print_table(table)
        for line in table.lines():
            logger.info("%s", line)

    def _task(self) -> str:
        task, n_tasks = self._pace.task, self._pace.n_tasks
        return "joint training" if self._is_joint else f"task {task} ({task + 1}/{n_tasks})"

    def _progress(self, event: Tick) -> Progress:
        pace = self._pace
        details = [f"epoch {min(event.epoch + 1, pace.n_epochs)}/{pace.n_epochs}"]
        if pace.rate is not None:
            details.append(f"{pace.rate:,.{0 if pace.rate >= 10 else 2}f} steps/s")
        if self._loss is not None:
            details.append(f"loss {self._loss:.4f}")
        if pace.seconds_left is not None:
            details.append(f"ETA {countdown(pace.seconds_left)}")
        return Progress(self._task(), pace.fraction, tuple(details))


class Pace:
    """Progress, steps per second and ETA, from the steps and the clock of this process alone."""

    def __init__(self, n_tasks: int, global_step: int) -> None:
        self.n_tasks = n_tasks
        self.task = 0
        self.n_epochs = 1
        self.fraction = 0.0
        self.rate: float | None = None
        """Steps per second, mostly of the last seconds."""
        self.seconds_left: float | None = None
        """Until the end of the run, evaluation included as far as it has been seen."""
        self._steps = 1
        self._first_step = self._last_step = global_step
        self._started_at: float | None = None
        self._last_at = 0.0
        self._recent_steps = self._recent_seconds = 0.0

    def start_task(self, event: TaskStart, now: float) -> None:
        """Restart the clock of the rate, since evaluation came before."""
        self.task = event.task
        self.fraction = 0.0
        self.n_epochs = max(1, math.ceil(event.steps / max(1, event.steps_per_epoch)))
        self._steps = max(1, event.steps)
        self._last_at = now
        if self._started_at is None:
            self._started_at = now

    def tick(self, event: Tick, now: float) -> None:
        """Update all from `event` at `now` (seconds of a monotonic clock)."""
        steps, seconds = event.global_step - self._last_step, now - self._last_at
        weight = math.exp(-seconds / RATE_DECAY_SECONDS)
        self._recent_steps = weight * self._recent_steps + steps
        self._recent_seconds = weight * self._recent_seconds + seconds
        self._last_step, self._last_at = event.global_step, now
        if self._recent_seconds > 0:
            self.rate = self._recent_steps / self._recent_seconds
        self.fraction = min(1.0, event.step / self._steps)
        done = event.global_step - self._first_step
        if done > 0 and self._started_at is not None:
            left = self._steps * (self.n_tasks - self.task - self.fraction)
            self.seconds_left = left * (now - self._started_at) / done


def _ending(status: str, results: dict[str, Any], error: str | None) -> str:
    """One line, even if the error has several."""
    line = f"{status}: {run_title(results)}"
    if status != "finished":
        done, of = results.get("tasks_done", 0), results.get("n_tasks", "?")
        line += f", {done} of {of} tasks done, step {results.get('global_step', 0):,}"
    return f"{line}: {' '.join(error.split())}" if error else line


def _costs(results: dict[str, Any]) -> list[str]:
    seconds = dict(results.get("seconds") or {})
    total = seconds.pop("total", None)
    if total is None:
        return []
    phases = ", ".join(f"{phase} {duration(spent)}" for phase, spent in seconds.items() if spent)
    lines = [f"time {duration(total)}{f' ({phases})' if phases else ''}"]
    rate = training_rate(results)
    return lines if rate is None else [*lines, f"speed {rate:,.0f} training steps/s"]
