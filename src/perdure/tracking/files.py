"""results.json, metrics.jsonl, accuracy.csv: written while the run trains; a kill loses no row."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.io.atomic import write_atomically, write_json
from perdure.io.run_files import RunFiles
from perdure.tracking.events import (
    Evaluation,
    RawExamples,
    RawRow,
    Recorder,
    RunEnd,
    RunStart,
    StepLog,
    TaskEnd,
)
from perdure.tracking.history import History, plain
from perdure.tracking.raw_files import RawFiles
from perdure.tracking.tables import accuracy_rows

logger = logging.getLogger("perdure")


class LocalFiles(Recorder):
    """results.json, metrics.jsonl, accuracy.csv, records/, figures/, report.html in `folder`.

    The figures are drawn at the end of the run, and after a task when `plot_every_seconds` have
    passed since the start or the last drawing: a short run pays for one drawing. `warn` shows a
    sentence to the user.
    """

    name = "files"

    def __init__(
        self,
        folder: Path,
        plot_every_seconds: float = 10.0,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        self.folder = folder
        self._plot_every_seconds = plot_every_seconds
        self._metrics = History(RunFiles(folder).metrics, warn)
        self._raw = RawFiles(folder)
        self._start: RunStart | None = None
        self._drawn_at = 0.0
        self._drawn_is_current = False
        self._cpu_before = time.process_time()

    def state_dict(self) -> dict[str, Any]:
        """The bytes of metrics.jsonl so far, and their checksum; they are durable on disk now."""
        self._raw.sync()
        return self._metrics.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """When the run starts, truncate metrics.jsonl to its size at `state_dict()`."""
        self._metrics.load_state_dict(state)

    def on_run_start(self, event: RunStart) -> None:
        """Record the configuration, truncate metrics.jsonl to the position, write results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start = event
        self._drawn_at = time.monotonic()
        write_json(RunFiles(self.folder).settings, plain(event.config), indent=1)
        self._metrics.open()
        done = int(event.results.get("tasks_done") or 0)
        self._raw.start(event.global_step, done, event.n_tasks)
        self._write_results({**event.results, "status": "running"})

    def on_step_log(self, event: StepLog) -> None:
        """One row of training."""
        self._metrics.append(
            {
                "kind": "step",
                "task": event.task,
                "epoch": event.epoch,
                "step": event.step,
                "global_step": event.global_step,
                "loss": event.loss,
                "lr": event.lr,
                **({"logged": event.logged} if event.logged else {}),
                "clock": _clock(steps_per_second=event.steps_per_second, **self._machine()),
            }
        )

    def on_evaluation(self, event: Evaluation) -> None:
        """One row of accuracies, as fractions."""
        self._metrics.append(
            {
                "kind": "evaluation",
                "task": event.task,
                "epoch": event.epoch,
                "global_step": event.global_step,
                "boundary": event.boundary,
                "split": event.split,
                "accuracy": event.accuracy,
                "clock": _clock(seconds=event.seconds),
            }
        )

    def on_raw_row(self, event: RawRow) -> None:
        """One line of records/."""
        self._raw.append(event.row)

    def on_raw_examples(self, event: RawExamples) -> None:
        """One file of records/."""
        self._raw.write(event.task, event.arrays)

    def on_task_end(self, event: TaskEnd) -> None:
        """Write a row and results.json; the last task's figures wait for the end of the run."""
        self._metrics.append(
            {
                "kind": "task",
                "task": event.task,
                "global_step": event.global_step,
                **_summary_metrics(event.results),
                "clock": _clock(seconds=event.seconds),
            }
        )
        self._write_results(event.results)
        self._drawn_is_current = False
        is_last = self._start is not None and event.task == self._start.n_tasks - 1
        if not is_last and time.monotonic() - self._drawn_at >= self._plot_every_seconds:
            self._draw(event.results)

    def on_run_end(self, event: RunEnd) -> None:
        """The last row and results first, then the figures and the report."""
        if self._start is None:
            return
        results = event.results
        phases = {key: results[key] for key in ("seconds", "cpu_seconds") if key in results}
        self._metrics.append(
            {
                "kind": "end",
                "global_step": results.get("global_step"),
                "status": results["status"],
                "error": event.error,
                **_summary_metrics(results),
                "clock": _clock(**phases),
            }
        )
        self._metrics.close()
        self._raw.close()
        self._write_results(results)
        if not self._drawn_is_current:
            self._draw(results)
        self._report(self._start, results, event.error)

    def _machine(self) -> dict[str, float]:
        """CPU seconds of this process on this run so far, and the process's peak memory (MB)."""
        import resource

        import torch

        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        cpu = time.process_time() - self._cpu_before
        usage = {"cpu_seconds": round(cpu, 3), "peak_memory_mb": round(peak, 1)}
        if torch.cuda.is_initialized():
            usage["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return usage

    def _write_results(self, results: dict[str, Any]) -> None:
        write_atomically(RunFiles(self.folder).results, to_json(results).encode())
        write_atomically(RunFiles(self.folder).accuracy, accuracy_rows(results).encode())

    def _draw(self, results: dict[str, Any]) -> None:
        """A figure must not end a run: errors are logged."""
        from perdure.tracking.figures import write_figures

        try:
            write_figures(self.folder, results)
        except Exception:
            logger.warning("the figures could not be drawn", exc_info=True)
        self._drawn_at = time.monotonic()
        self._drawn_is_current = True

    def _report(self, start: RunStart, results: dict[str, Any], error: str | None) -> None:
        """A report must not end a run: errors are logged."""
        from perdure.tracking.report import write_report

        try:
            write_report(self.folder, start, results, error)
        except Exception:
            logger.warning("report.html could not be written", exc_info=True)


def to_json(results: dict[str, Any]) -> str:
    """`results` as JSON that a person can read too: a matrix row a line, short groups in one."""
    return _indented(plain(results), "") + "\n"


def _indented(value: Any, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and any(isinstance(item, (dict, list)) for item in value.values()):
        items = [f"{json.dumps(key)}: {_indented(item, inner)}" for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, list) for item in value):
        items = [_indented(item, inner) for item in value]
    else:
        return json.dumps(value, allow_nan=False)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ",".join(f"\n{inner}{item}" for item in items) + f"\n{margin}{closing}"


def _summary_metrics(results: dict[str, Any]) -> dict[str, Any]:
    keys = ("average_accuracy", "forgetting", "backward_transfer", "forward_transfer")
    return {key: results[key] for key in keys if key in results}


def _clock(**fields: Any) -> dict[str, Any]:
    """All values that depend on time, under one key, so that runs can be compared without them."""
    return {**fields, "time": time.time()}
