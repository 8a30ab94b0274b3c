"""CSV logger (`tracking=csv`): metrics.csv, the rows of metrics.jsonl with a line a value."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perdure.io.atomic import write_atomically
from perdure.io.run_files import RunFiles
from perdure.tracking.events import Evaluation, Recorder, RunEnd, RunStart, StepLog, TaskEnd

COLUMNS = ("kind", "task", "epoch", "global_step", "metric", "value")
"""Accuracies are called `accuracy.class_il.0` (of task 0), and are fractions."""


class MetricsCSV(Recorder):
    """metrics.csv in `folder`; comes after the recorder that writes metrics.jsonl.

    It is derived from that file, whose rows a resumed run has put right before this one starts, so
    it holds the same values after a kill. Times are left out.
    """

    name = "csv"

    def __init__(self, folder: Path) -> None:
        self._files = RunFiles(folder)
        self._read = 0
        """Bytes of metrics.jsonl that are in the table."""

    def on_run_start(self, event: RunStart) -> None:
        """Write the table of all rows so far."""
        self._read = 0
        write_atomically(self._files.sheet, _lines([COLUMNS]))
        self._follow()

    def on_step_log(self, event: StepLog) -> None:
        """The rows of training."""
        self._follow()

    def on_evaluation(self, event: Evaluation) -> None:
        """The rows of an evaluation."""
        self._follow()

    def on_task_end(self, event: TaskEnd) -> None:
        """The rows of a task."""
        self._follow()

    def on_run_end(self, event: RunEnd) -> None:
        """The last rows."""
        if self._files.sheet.is_file():
            self._follow()

    def _follow(self) -> None:
        """Append what metrics.jsonl has more."""
        with self._files.metrics.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        rows = [line for text in new.splitlines() for line in table_of(json.loads(text))]
        with self._files.sheet.open("ab") as sheet:
            sheet.write(_lines(rows))
        self._read += len(new)


def table_of(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """A row of metrics.jsonl in lines of `COLUMNS`, without its times and what is no number."""
    known = [row.get(key) for key in COLUMNS[:4]]
    values = {k: v for k, v in row.items() if k not in (*COLUMNS[:4], "step", "clock")}
    for name, value in _flat(values):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*known, name, value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{index}")
    else:
        yield name, value


def _lines(rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
