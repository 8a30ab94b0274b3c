"""Formatting of metrics for people: percent, durations, byte sizes, small aligned text tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perdure.errors import printable

SCENARIOS = {"class_il": "class-IL", "task_il": "task-IL", "domain_il": "domain-IL"}
NUMBER_WIDTH = len("100.00")
LABEL_WIDTH = len("  accuracy %")


def scenario_name(key: str) -> str:
    """`class_il` → `class-IL`."""
    return SCENARIOS.get(key, key)


def percent(fraction: float | None, decimals: int = 2) -> str:
    """0.8702 → `87.02`; `-` for None and NaN."""
    if fraction is None or not math.isfinite(fraction):
        return "-"
    return f"{100 * fraction:.{decimals}f}"


def duration(seconds: float) -> str:
    """How long something took: `6.3 s`, `12 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def countdown(seconds: float) -> str:
    """How long something will take: `0:12`, `4:05`, `1:02:03`."""
    minutes, rest = divmod(max(0, math.ceil(seconds)), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def byte_size(n_bytes: int) -> str:
    """2,048,000 → `2.0 MB`."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def operations(flops: float) -> str:
    """45,567,184,000 → `45.6 GFLOP`."""
    size = float(flops)
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "FLOP" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PFLOP"


def run_title(results: Mapping[str, Any]) -> str:
    """Method, benchmark and buffer in one phrase: `er on seq-mnist, buffer 500`."""
    size = results.get("buffer_size") or 0
    buffer = f"buffer {size:,}" if size else "no buffer"
    joint = ", trained jointly" if results.get("training") == "joint" else ""
    return f"{results.get('model', '?')} on {results.get('dataset', '?')}, {buffer}{joint}"


def last_rows(results: dict[str, Any]) -> dict[str, list[float]]:
    """Scenario key → accuracy on each task seen so far.

    Scenarios without a row are left out, and all where the last task's end was not evaluated.
    """
    matrices = results.get("accuracy_matrix") or {}
    return {
        scenario: rows[-1] for scenario, rows in matrices.items() if rows and None not in rows[-1]
    }


def training_rate(results: dict[str, Any]) -> float | None:
    """Optimizer steps per second of training time; None where either is unknown."""
    training = (results.get("seconds") or {}).get("training") or 0.0
    steps = results.get("global_step") or 0
    return steps / training if training > 0 and steps else None


@dataclass(frozen=True)
class TextTable:
    """A small table of texts: the first column is a label, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasized: str = "mean"
    """The column that a terminal with styles prints bold."""

    def printable(self) -> TextTable:
        """The same without control characters."""
        rows = tuple(tuple(map(printable, row)) for row in self.rows)
        return TextTable(tuple(map(printable, self.header)), rows, self.emphasized)

    def lines(self) -> list[str]:
        """The table as aligned plain text, indented by two."""
        table = (self.header, *self.rows)
        widths = [max(NUMBER_WIDTH, *map(len, column)) for column in zip(*table, strict=True)]
        return [_aligned(row, widths) for row in table]


def accuracy_table(results: dict[str, Any], n_tasks: int, width: int) -> TextTable:
    """Accuracy in percent on each task seen; its mean, worst and last where `width` is short.

    The shape depends on the whole run's `n_tasks`, so that it stays the same from task to task.
    """
    rows = last_rows(results)
    n_columns = max([n_tasks, *map(len, rows.values())])
    cell_width = 2 + max(NUMBER_WIDTH, len(f"task {n_columns - 1}"))
    if LABEL_WIDTH + cell_width * (n_columns + 1) <= width:
        return _full(rows)
    return _compact(rows)


def summary_table(results: dict[str, Any]) -> TextTable:
    """Average accuracy and forgetting of each scenario, in percent."""
    average = results.get("average_accuracy") or {}
    forgetting = results.get("forgetting") or {}
    rows = [(scenario_name(key), percent(average[key]), percent(forgetting.get(key)))
            for key in average]  # fmt: skip
    header = ("percent", "average accuracy", "forgetting")
    return TextTable(header, tuple(rows), emphasized="average accuracy")


def _full(rows: dict[str, list[float]]) -> TextTable:
    n_seen = max(map(len, rows.values()), default=0)
    header = ("accuracy %", *(f"task {task}" for task in range(n_seen)), "mean")
    return TextTable(header, tuple(
        (scenario_name(key), *map(percent, row), percent(_mean(row)))
        for key, row in rows.items()
    ))  # fmt: skip


def _compact(rows: dict[str, list[float]]) -> TextTable:
    return TextTable(("accuracy %", "mean", "worst", "last"), tuple(
        (scenario_name(key), percent(_mean(row)), _worst(row), percent(row[-1]))
        for key, row in rows.items()
    ))  # fmt: skip


def _mean(row: Iterable[float]) -> float:
    values = list(row)
    return sum(values) / len(values)


def _worst(row: list[float]) -> str:
    task = min(range(len(row)), key=row.__getitem__)
    return f"{percent(row[task])} (task {task})".rjust(len("100.00 (task 10)"))


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    label, *cells = row
    numbers = (f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
    return f"  {label:<{widths[0]}}{''.join(numbers)}".rstrip()
