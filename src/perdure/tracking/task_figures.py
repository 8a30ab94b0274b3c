"""Figures of a run by task: what is kept of each task's accuracy (retention), and what is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from perdure.tracking.charts import (
    SCREEN,
    UNNAMED,
    Axis,
    Frame,
    Line,
    axes,
    nice_axis,
    snug_axis,
    task_ticks,
    with_legend,
)
from perdure.tracking.colors import Theme
from perdure.tracking.drawing import DOT_RADIUS, Drawing, Marks, Rect, Segment, Shape
from perdure.tracking.formatting import percent, scenario_name
from perdure.tracking.heatmaps import Rows
from perdure.tracking.run_data import RunData, beside, panel_frame
from perdure.tracking.tables import csv_text


class TaskEnds(NamedTuple):
    """Accuracies on a task as fractions; None where it was not measured."""

    task: int
    learned: float | None
    """Just after it was trained."""
    best: float | None
    """The best before the end, from its own end on."""
    last: float | None
    """After the last task."""

    @property
    def forgotten(self) -> float | None:
        """The best before the end less that at the end."""
        return None if self.best is None or self.last is None else self.best - self.last


def task_ends(rows: Rows) -> list[TaskEnds]:
    """What the accuracy matrix says of each task; nothing before the second task."""
    if len(rows) < 2:
        return []
    found = []
    for task in range(len(rows)):
        before = [_known(row[task]) for row in rows[task:-1]]
        known = [value for value in before if value is not None]
        ends = _known(rows[task][task]), max(known, default=None), _known(rows[-1][task])
        found.append(TaskEnds(task, *ends))
    return found


def _known(accuracy: float | None) -> float | None:
    return None if accuracy is None or not math.isfinite(accuracy) else float(accuracy)


def ends_by_scenario(data: RunData) -> dict[str, list[TaskEnds]]:
    """Scenario → what its matrix says of each task, where it says anything."""
    found = {key: task_ends(rows) for key, rows in data.matrices.items()}
    return {key: ends for key, ends in found.items() if ends}


def retention(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """Accuracy on each task just after it was trained, and at the end; a panel a scenario."""
    shown = ends_by_scenario(data)
    values = [
        v for ends in shown.values() for e in ends for v in (e.learned, e.last) if v is not None
    ]
    if not values:
        return None
    inner = panel_frame(len(shown), frame)
    panels = [
        (f"{scenario_name(key)}, accuracy (%)", retention_chart(ends, theme, inner))
        for key, ends in shown.items()
    ]
    return beside(panels, "accuracy kept of each task", theme, frame)


def retention_chart(ends: Sequence[TaskEnds], theme: Theme, frame: Frame = UNNAMED) -> Drawing:
    """The panel of one scenario: a hollow mark and a filled one a task, a line between them."""
    x, y = _tasks(len(ends)), nice_axis("accuracy", 0, 100)
    radius = 1.4 * DOT_RADIUS * max(frame.scale, 0.75)
    radius = min(radius, 0.3 * (frame.width - frame.left - frame.right) / len(ends))
    shapes: list[Shape] = list(axes(x, y, theme, frame))
    learned, last = [], []
    for end in ends:
        at = frame.at_x(x, end.task)
        high = None if end.learned is None else frame.at_y(y, 100 * end.learned)
        low = None if end.last is None else frame.at_y(y, 100 * end.last)
        if high is not None and low is not None:
            shapes.append(Segment(at, high, at, low, theme.muted, width=1.2 * frame.scale))
        learned += [] if high is None else [(at, high)]
        last += [] if low is None else [(at, low)]
    color = theme.group(0)
    shapes += [
        Marks(learned, color, "circle", radius, hollow=True, hint="just after it was trained"),
        Marks(last, theme.group(1), "square", radius, hint="after the last task"),
    ]
    chart = Drawing(frame.width, frame.height, "accuracy kept", tuple(shapes), frame.printed)
    return with_legend(
        chart,
        [
            Line("just after its training", (), (), color, symbol="circle", hollow=True),
            Line("after the last task", (), (), theme.group(1), symbol="square"),
        ],
        theme,
        frame,
    )


def forgetting(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """Of each task but the last its best accuracy before the end less that at the end, in points.

    f_j of Chaudhry et al. 2018 (Riemannian Walk).
    """
    shown = ends_by_scenario(data)
    y = forgetting_axis(shown)
    if y is None:
        return None
    inner = panel_frame(len(shown), frame)
    panels = [
        (f"{scenario_name(key)}, forgetting (points)", forgetting_chart(ends, y, theme, inner))
        for key, ends in shown.items()
    ]
    return beside(panels, "forgetting of each task", theme, frame)


def forgetting_axis(shown: Mapping[str, Sequence[TaskEnds]]) -> Axis | None:
    """One axis for all scenarios, in points; None where nothing can be forgotten."""
    lost = [100 * f for ends in shown.values() for e in ends[:-1] if (f := e.forgotten) is not None]
    return snug_axis("forgetting", min(0.0, *lost), max(1.0, *lost)) if lost else None


def forgetting_chart(
    ends: Sequence[TaskEnds], y: Axis, theme: Theme, frame: Frame = UNNAMED
) -> Drawing:
    """The panel of one scenario: a bar a task but the last."""
    ends = ends[:-1]
    x = _tasks(len(ends))
    width = 0.7 * (frame.at_x(x, 1) - frame.at_x(x, 0))
    zero = frame.at_y(y, 0.0)
    shapes: list[Shape] = list(axes(x, y, theme, frame))
    for end in ends:
        if (lost := end.forgotten) is not None:
            left, top = frame.at_x(x, end.task) - width / 2, frame.at_y(y, 100 * lost)
            hint = f"task {end.task}: {percent(lost, 1)} points"
            low, high = min(zero, top), max(zero, top)
            shapes.append(Rect(left, low, width, high - low, theme.accent, hint))
    shapes.append(Segment(frame.left, zero, frame.width - frame.right, zero, theme.muted))
    return Drawing(frame.width, frame.height, "forgetting", tuple(shapes), frame.printed)


def _tasks(n: int) -> Axis:
    return Axis("task", -0.6, n - 0.4, task_ticks(n))


def ends_table(data: RunData) -> str:
    """The numbers of both figures as CSV, fractions; empty where nothing was measured."""
    rows: Iterator[list[object]] = (
        [key, e.task, e.learned, e.best, e.last, e.forgotten]
        for key, ends in ends_by_scenario(data).items()
        for e in ends
    )
    head = ["scenario", "task", "just_after_training", "best_before_the_end", "at_the_end",
            "forgetting"]  # fmt: skip
    return csv_text(head, rows)
