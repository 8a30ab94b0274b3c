"""Figures of a run by class: accuracy of each class, and what the buffer holds of it over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from perdure.tracking.charts import (
    SCREEN,
    Axis,
    Frame,
    axes,
    nice_axis,
    task_ticks,
    with_y_name,
)
from perdure.tracking.classes import Confusion, class_name, confusion_of, per_class
from perdure.tracking.colors import PAPER, Theme
from perdure.tracking.drawing import Drawing, Rect, Shape, Text, shortened, text_width
from perdure.tracking.formatting import percent
from perdure.tracking.heatmaps import MOST_CLASSES, MOST_WITH_HINTS, confusion_heatmap
from perdure.tracking.run_data import RunData
from perdure.tracking.tables import csv_text

_BAR = 11.0
"""Units a bar takes on a page at least, so that each class's name is readable below it."""


def confusion_matrix(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """Which classes are taken for which, after the last task; None above MOST_CLASSES."""
    found = confusion_of(data.results)
    if found is None or not 0 < len(found.names) <= MOST_CLASSES:
        return None
    return confusion_heatmap("confusion matrix", found.names, found.counts, theme, frame)


def confusion_rows(data: RunData) -> str:
    """The counts of the confusion matrix as CSV."""
    found = confusion_of(data.results) or Confusion((), ())
    return csv_text(
        ["true", "predicted", "count"],
        (
            [true, predicted, count]
            for true, row in zip(found.names, found.counts, strict=True)
            for predicted, count in zip(found.names, row, strict=True)
        ),
    )


def class_accuracy(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """A bar a class: its accuracy after the last task, colored by its task."""
    found = [(n, v) for n, v in per_class(data.results) if v is not None and math.isfinite(v)]
    if not found:
        return None
    shades = _Shades(data.results, theme)
    size = min(frame.text, 10.0)
    labels = [shortened(name, 80 * frame.scale, size) for name, _ in found]
    room = max(text_width(label, size) for label in labels)
    wide = frame
    if not frame.printed:
        wide = replace(frame, width=max(frame.width, _BAR * len(found) + 120), right=16.0)
    inner = wide.beside_name
    x, y = Axis("", -0.7, len(found) - 0.3, ()), nice_axis("accuracy", 0, 100)
    step = inner.at_x(x, 1) - inner.at_x(x, 0)
    width, zero = 0.8 * step, inner.at_y(y, 0)
    shapes: list[Shape] = list(axes(x, y, theme, inner))
    every = math.ceil(1.05 * size / step)
    bars: list[Rect] = []
    for index, (name, value) in enumerate(found):
        top = inner.at_y(y, 100 * min(max(value, 0.0), 1.0))
        left = inner.at_x(x, index) - width / 2
        hint = f"{name}: {percent(value, 1)} %"
        bars.append(Rect(left, top, width, zero - top, shades.color(name), hint))
        if index % every == 0:
            at = inner.at_x(x, index) + 0.34 * size
            shapes.append(Text(at, zero + 5, labels[index], theme.text, size, "end", turned=True))
    height = max(inner.height, zero + 5 + room + 4)
    chart = Drawing(inner.width, height, "accuracy of each class", (*shapes, *bars), inner.printed)
    return with_y_name(chart, "accuracy (%)", theme, wide)


def class_table(data: RunData) -> str:
    """The accuracy of each class as CSV."""
    tasks = _Shades(data.results, PAPER).tasks
    return csv_text(
        ["class", "task", "accuracy"],
        ([name, tasks.get(name, ""), value] for name, value in per_class(data.results)),
    )


class _Shades:
    """Task and color of a class: its first task's color, its own where all share a task."""

    def __init__(self, results: Mapping[str, Any], theme: Theme) -> None:
        self._results = results
        self._theme = theme
        self.tasks: dict[str, int] = {}
        for task, labels in enumerate(results.get("task_classes") or ()):
            for label in labels:
                self.tasks.setdefault(class_name(results, label), task)
        self.by_task = len(set(self.tasks.values())) > 1
        steps = set(self.tasks.values()) if self.by_task else range(len(self.tasks))
        self._last = max(1, max(steps, default=1))
        self._places = {name: index for index, name in enumerate(self.tasks)}

    def color(self, name: str) -> str:
        """The color of a class."""
        place = (self.tasks if self.by_task else self._places).get(name)
        return self._theme.muted if place is None else self._theme.line(place / self._last)


def _held(results: Mapping[str, Any]) -> dict[int, list[tuple[str, int]]]:
    """Task → (class, exemplars) in the buffer at its end, classes in the order of their tasks."""
    rows = results.get("buffer_classes") or ()
    order = [label for labels in results.get("task_classes") or () for label in labels]
    found = {}
    for task, row in enumerate(rows):
        if row is not None:
            labels = list(dict.fromkeys([*(x for x in order if x < len(row)), *range(len(row))]))
            found[task] = [(class_name(results, label), int(row[label])) for label in labels]
    return found


def buffer_composition(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """A bar a task end: how many exemplars of each class the buffer holds, colored by its task."""
    held = _held(data.results)
    largest = max((sum(n for _, n in row) for row in held.values()), default=0)
    if not largest:
        return None
    shades = _Shades(data.results, theme)
    framed = replace(frame, right=text_width("task 00", frame.text) + 14 * frame.scale)
    inner, n = framed.beside_name, max(held) + 1
    x = Axis("after task", -0.6, n - 0.4, task_ticks(n))
    y = nice_axis("exemplars", 0, largest)
    cells = [cell for task, row in held.items() for cell in _stack(task, row, x, y, inner, shades)]
    names = _names(held[max(held)], y, inner, shades)
    shapes = (*axes(x, y, theme, inner), *cells, *names)
    chart = Drawing(inner.width, inner.height, "buffer composition", shapes, inner.printed)
    return with_y_name(chart, "exemplars", theme, framed)


def _stack(
    task: int, row: Sequence[tuple[str, int]], x: Axis, y: Axis, frame: Frame, shades: _Shades
) -> Iterator[Rect]:
    """The classes on each other, with a gap between two where they are high enough for one."""
    width = 0.8 * (frame.at_x(x, 1) - frame.at_x(x, 0))
    left, below = frame.at_x(x, task) - width / 2, 0
    for name, count in row:
        if not count:
            continue
        low, high = frame.at_y(y, below), frame.at_y(y, below + count)
        gap = 0.5 if low - high > 4 else 0.0
        hint = f"{name}: {count:,} after task {task}" if len(row) <= MOST_WITH_HINTS else ""
        yield Rect(left, high, width, low - high - gap, shades.color(name), hint)
        below += count


def _names(
    row: Sequence[tuple[str, int]], y: Axis, frame: Frame, shades: _Shades
) -> Iterator[Text]:
    """Beside the last bar the task of each layer, or its class; some, where there are many."""
    layers: dict[str, tuple[float, float, str]] = {}
    below = 0
    for name, count in row:
        label = f"task {shades.tasks[name]}" if shades.by_task and name in shades.tasks else name
        low = layers[label][0] if label in layers else below
        below += count
        if count:
            layers[label] = (low, below, shades.color(name))
    last = math.inf
    for label, (low, high, color) in layers.items():
        at = frame.at_y(y, (low + high) / 2) + frame.text / 3
        if last - at >= frame.text:
            last, right = at, frame.width - frame.right + 4 * frame.scale
            shown = shortened(label, frame.right - 6 * frame.scale, frame.text)
            yield Text(right, at, shown, color, frame.text, kind="name")


def buffer_table(data: RunData) -> str:
    """What the buffer holds of each class at each task's end, as CSV."""
    rows = ([task, name, count] for task, row in _held(data.results).items() for name, count in row)
    return csv_text(["after_task", "class", "exemplars"], rows)
