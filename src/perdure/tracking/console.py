"""What a person sees of a run while it goes: its head, its progress, a table a task, its end."""

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
    Grid,
    accuracy_grid,
    countdown,
    duration,
    subject,
    summary_grid,
    training_rate,
)
from perdure.tracking.terminal import PlainScreen, Progress, Screen, TerminalScreen

logger = logging.getLogger("perdure")

STYLES = {"finished": "bold green", "interrupted": "bold yellow", "failed": "bold red"}
RATE_MEMORY_SECONDS = 3.0


class Console(Recorder):
    """Shows a run on `stream` (standard output) and says the same to the logger `perdure`.

    `plain` is no colour, no live line: the default where the stream is not a terminal. Tasks are
    named by their index from 0, as in the files; `(3/5)` counts them.
    """

    name = "console"

    def __init__(self, stream: TextIO | None = None, plain: bool | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        if plain is None:
            plain = not stream.isatty() or os.environ.get("TERM") in {"dumb", "unknown"}
        self._screen: Screen = (
            PlainScreen(stream, time.monotonic()) if plain else TerminalScreen(stream)
        )
        self._folder = Path()
        self._pace = Pace(n_tasks=1, global_step=0)
        self._label = ""
        self._is_joint = False
        self._loss: float | None = None

    def on_run_start(self, event: RunStart) -> None:
        """What is about to run, where, and what the user should know first."""
        results = event.results
        self._folder = event.folder
        self._pace = Pace(event.n_tasks, event.global_step)
        self._is_joint = results.get("training") == "joint"
        tasks = f"{results.get('n_tasks', event.n_tasks)} tasks{' at once' * self._is_joint}"
        self._say(f"{subject(results)}, {tasks}, seed {results.get('seed', '?')}", "bold")
        self._say(f"  {event.n_parameters:,} backbone parameters on {event.device}")
        self._say(f"  run folder {event.folder}")
        if event.global_step:
            self._say(f"  going on after step {event.global_step:,}", "yellow")
        for notice in event.notices:
            self._say(f"  note: {notice}", "yellow")

    def on_task_start(self, event: TaskStart) -> None:
        """On a terminal the live line tells as much, so only plain streams get a line."""
        self._pace.start_task(event, time.monotonic())
        self._label = event.label
        self._loss = None
        counts = f"{event.n_examples:,} examples, {event.steps:,} steps"
        line = f"{self._task()}: {event.label}, {counts}"
        if isinstance(self._screen, PlainScreen):
            self._say(line)
        else:
            logger.info("%s", printable(line))

    def on_step_log(self, event: StepLog) -> None:
        """Remember the loss for the next refresh."""
        self._loss = event.loss

    def on_tick(self, event: Tick) -> None:
        """Refresh the progress."""
        now = time.monotonic()
        self._pace.tick(event, now)
        self._screen.progress(self._progress(event), now)

    def on_task_end(self, event: TaskEnd) -> None:
        """The accuracies on all tasks seen."""
        self._say(f"after {self._task()}: {self._label}, {duration(event.seconds)}", "bold")
        self._show(accuracy_grid(event.results, self._pace.n_tasks, self._screen.width))

    def on_checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Logged alone: rolling checkpoints would flood the screen."""
        what = (printable(event.path.name), event.task, event.global_step)
        logger.info("checkpoint %s (task %d, step %d)", *what)

    def on_run_end(self, event: RunEnd) -> None:
        """How the run ended, what it reached, what it cost, and where it is."""
        results = event.results
        status = str(results.get("status", "finished"))
        self._say(_ending(status, results, event.error), STYLES.get(status, "bold"))
        if any(value is not None for value in (results.get("average_accuracy") or {}).values()):
            self._show(summary_grid(results))
        for line in _costs(results):
            self._say(f"  {line}")
        self._say(f"  run folder {self._folder}")

    def note(self, sentence: str) -> None:
        """Show what another recorder has to tell the user."""
        self._say(f"  {sentence}", "yellow")

    def _say(self, line: str, style: str = "") -> None:
        line = printable(line)
        self._screen.say(line, style)
        logger.info("%s", line)

    def _show(self, grid: Grid) -> None:
        grid = grid.printable()
        self._screen.show(grid)
        for line in grid.lines():
            logger.info("%s", line)

    def _task(self) -> str:
        task, n_tasks = self._pace.task, self._pace.n_tasks
        return "joint training" if self._is_joint else f"task {task} ({task + 1}/{n_tasks})"

    def _progress(self, event: Tick) -> Progress:
        pace = self._pace
        words = [f"epoch {min(event.epoch + 1, pace.n_epochs)}/{pace.n_epochs}"]
        if pace.rate is not None:
            words.append(f"{pace.rate:,.{0 if pace.rate >= 10 else 2}f} steps/s")
        if self._loss is not None:
            words.append(f"loss {self._loss:.4f}")
        if pace.seconds_left is not None:
            words.append(f"ETA {countdown(pace.seconds_left)}")
        return Progress(self._task(), pace.fraction, tuple(words))


class Pace:
    """How far a run is and how fast it goes, by the steps and the clock of this process alone."""

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
        """The clock of the rate starts anew: what came before was evaluation."""
        self.task = event.task
        self.fraction = 0.0
        self.n_epochs = max(1, math.ceil(event.steps / max(1, event.steps_per_epoch)))
        self._steps = max(1, event.steps)
        self._last_at = now
        if self._started_at is None:
            self._started_at = now

    def tick(self, event: Tick, now: float) -> None:
        """Take note of `event` at `now` (seconds of a monotonic clock)."""
        steps, seconds = event.global_step - self._last_step, now - self._last_at
        weight = math.exp(-seconds / RATE_MEMORY_SECONDS)
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
    """One line, whatever the error looks like."""
    line = f"{status}: {subject(results)}"
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
