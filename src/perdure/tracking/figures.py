"""The figures of a run (plots): accuracy, retention, forgetting, classes, buffer, loss, confusion.

A figure is one function from a run's data to a drawing, and one to the numbers it shows (CSV).
A new one is a line in FIGURES. `perdure plot` writes any of them in any format; a run itself
leaves those of `write_figures`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perdure.io.atomic import write_atomically
from perdure.io.run_files import ACCURACY_PICTURE, RunFiles
from perdure.tracking.charts import (
    SCREEN,
    Axis,
    Frame,
    Line,
    line_chart,
    nice_axis,
    task_ticks,
)
from perdure.tracking.class_figures import (
    buffer_composition,
    buffer_table,
    class_accuracy,
    class_table,
    confusion_matrix,
    confusion_rows,
)
from perdure.tracking.colors import PAPER, Theme
from perdure.tracking.drawing import DASHES, Drawing, Text, shifted, text_width, to_svg
from perdure.tracking.formatting import percent, scenario_name
from perdure.tracking.heatmaps import Rows, accuracy_heatmap
from perdure.tracking.run_data import Figure, RunData, beside, panel_frame
from perdure.tracking.tables import accuracy_rows
from perdure.tracking.task_figures import ends_table, forgetting, retention
from perdure.tracking.training_figures import learning_rate, loss_curve, loss_rows, rate_rows

MOST_NAMES = 20
"""Lines of a chart that are named; of more, every second, third, …"""
HEADING = 34.0
"""Height of the line above a figure that says of which run it is."""

logger = logging.getLogger("perdure")


def write_figures(folder: Path, results: Mapping[str, Any], complete: bool = True) -> None:
    """Write what a run leaves in `folder`/figures: each figure as SVG, its numbers as CSV.

    Nothing is written before the first task is evaluated. One figure that cannot be drawn does not
    keep the others from it.

    Args:
        folder: of the run.
        results: what results.json holds.
        complete: whether the run has ended; before that it leaves only the accuracies, whose
            numbers are in accuracy.csv.
    """
    from perdure.tracking.raster import to_png

    files = RunFiles(folder)
    data = RunData(results, files.metrics)
    if not data.matrices:
        return
    for name in FIGURES if complete else ACCURACIES:
        try:
            drawing = drawn(name, data)
            table = FIGURES[name].table(data) if drawing and name not in ACCURACIES else ""
        except Exception:
            logger.warning("figures/%s could not be drawn", name, exc_info=True)
            continue
        if drawing is None:
            continue
        files.figures.mkdir(exist_ok=True)
        write_atomically(files.figures / f"{name}.svg", to_svg(drawing).encode())
        if table:
            write_atomically(files.figures / f"{name}.csv", table.encode())
        if name == Path(ACCURACY_PICTURE).stem:
            write_atomically(files.accuracy_picture, to_png(drawing))


def drawn(name: str, data: RunData, frame: Frame = SCREEN) -> Drawing | None:
    """The figure `name` for a file: on paper; on a page, below a line that says of which run."""
    drawing = FIGURES[name].draw(data, PAPER, frame)
    if drawing is None or frame.printed:
        return drawing
    heading = Text(14, 26, data.title, PAPER.text, 14, bold=True)
    width = max(drawing.width, 28 + text_width(data.title, 15))
    shapes = (heading, *shifted(drawing.shapes, 0, HEADING))
    return Drawing(width, drawing.height + HEADING, f"{drawing.title}: {data.title}", shapes)


def accuracy_matrix(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """Accuracy on task j (column) after training task i (row), a panel a scenario."""
    if not data.matrices:
        return None
    average = data.results.get("average_accuracy") or {}
    panels = {
        f"{scenario_name(key)}: average {percent(average.get(key))} %": rows
        for key, rows in data.matrices.items()
    }
    n_rows = max(map(len, panels.values()))
    names = ["joint"] if data.is_joint else [str(task) for task in range(n_rows)]
    return accuracy_heatmap("accuracy matrix", panels, names, theme, frame)


def accuracy_curves(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """Accuracy on each task after each task, a panel a scenario; of a single row, over tasks."""
    if not data.matrices:
        return None
    axis = accuracy_axis(data.matrices)
    inner = panel_frame(len(data.matrices), frame, named=True)
    panels = [
        (f"{scenario_name(key)}, accuracy (%)", accuracy_chart(key, rows, axis, theme, inner))
        for key, rows in data.matrices.items()
    ]
    return beside(panels, "accuracy after each task", theme, frame)


def accuracy_axis(matrices: Mapping[str, Rows]) -> Axis:
    """One axis for all scenarios: side by side they compare only on it."""
    values = (_percent(a) for rows in matrices.values() for row in rows for a in row)
    single = all(len(rows) == 1 for rows in matrices.values())
    low = 0.0 if single else min((v for v in values if v is not None), default=0.0)
    return nice_axis("accuracy", low, 100)


def accuracy_chart(
    scenario: str, rows: Rows, y: Axis, theme: Theme, frame: Frame = SCREEN
) -> Drawing:
    """The panel of one scenario."""
    if len(rows) == 1:
        return _single_row(scenario, rows[0], y, theme, frame)
    n_tasks = len(rows)
    room = (frame.height - frame.top) / (1.1 * frame.text)
    every = 1 + n_tasks // (min(MOST_NAMES, int(room) - 2) + 1)
    lines = []
    for task in range(n_tasks):
        after, hint = range(task, n_tasks), f"task {task}"
        ys = [_percent(rows[i][task]) for i in after]
        color, label = theme.line(task / (n_tasks - 1)), "" if task % every else hint
        dash = DASHES[task % len(DASHES)]
        lines.append(Line(label, after, ys, color, symbol="circle", dash=dash, hint=hint))
    means = [_mean(row) for row in rows]
    lines.append(Line("mean", range(n_tasks), means, theme.text, thick=True))
    x = Axis("after task", 0, n_tasks - 1, task_ticks(n_tasks))
    title = f"accuracy on each task after each task, {scenario_name(scenario)}"
    return line_chart(title, lines, x, y, theme, frame=frame)


def _single_row(
    scenario: str, row: Sequence[float | None], y: Axis, theme: Theme, frame: Frame
) -> Drawing:
    values = [_percent(accuracy) for accuracy in row]
    line = Line("", range(len(row)), values, theme.accent, symbol="circle", hint="accuracy")
    x = Axis("accuracy on task", -0.5, len(row) - 0.5, task_ticks(len(row)))
    title = f"accuracy on each task, {scenario_name(scenario)}"
    return line_chart(title, [line], x, y, theme, frame=frame)


def _percent(accuracy: float | None) -> float | None:
    """None for what is no number, which is a gap in a line."""
    return None if accuracy is None or not math.isfinite(accuracy) else 100 * accuracy


def _mean(row: Sequence[float | None]) -> float | None:
    known = [value for value in map(_percent, row) if value is not None]
    return sum(known) / len(known) if len(known) == len(row) > 0 else None


def _accuracy_table(data: RunData) -> str:
    return accuracy_rows(data.results)


FIGURES = {
    "accuracy_matrix": Figure(accuracy_matrix, _accuracy_table),
    "accuracy": Figure(accuracy_curves, _accuracy_table),
    "retention": Figure(retention, ends_table),
    "forgetting": Figure(forgetting, ends_table),
    "classes": Figure(class_accuracy, class_table),
    "confusion": Figure(confusion_matrix, confusion_rows),
    "buffer": Figure(buffer_composition, buffer_table),
    "loss": Figure(loss_curve, loss_rows),
    "learning_rate": Figure(learning_rate, rate_rows),
}
"""By the names of their files."""
ACCURACIES = ("accuracy_matrix", "accuracy")
"""Figures that are drawn while the run trains."""
