"""The figures of a run (plots): accuracy matrix, accuracy curves, loss curve, confusion matrix.

A figure is one function from a run's data to a drawing, and one to the numbers it shows (CSV).
A new one is a line in FIGURES. `perdure plot` writes any of them in any format; a run itself
leaves those of `write_figures`.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perdure.io.atomic import write_atomically
from perdure.io.run_files import ACCURACY_PICTURE, RunFiles
from perdure.tracking.charts import Axis, Line, line_chart, nice_axis, thinned
from perdure.tracking.classes import Confusion, confusion_of
from perdure.tracking.colors import PAPER, Theme
from perdure.tracking.drawing import Drawing, Shape, Text, shifted, text_width, to_svg
from perdure.tracking.formatting import percent, run_title, scenario_name
from perdure.tracking.heatmaps import MOST_CLASSES, Rows, accuracy_heatmap, confusion_heatmap
from perdure.tracking.tables import accuracy_rows, csv_text

MOST_NAMES = 20
"""Lines of a chart that are named; of more, every second, third, …"""
HEADING = 34.0
"""Height of the line above a figure that says of which run it is."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Patterns of the lines of a chart in turn, for readers who see no colors."""
_STEP_ROW = re.compile(
    rb'\{"kind": "step", .*?"global_step": (\d+), '
    rb'"loss": (null|-?[\d.]+(?:e[+-]\d+)?)[,}]'
)
"""A row of training as `LocalFiles` writes it; parsing a million whole rows would take a minute."""


@dataclass(frozen=True)
class RunData:
    """What a figure is drawn from: results.json, and the path of metrics.jsonl."""

    results: Mapping[str, Any]
    metrics: Path

    @property
    def title(self) -> str:
        """Method, benchmark, buffer and seed."""
        return f"{run_title(self.results)}, seed {self.results.get('seed', '?')}"

    @property
    def matrices(self) -> dict[str, Rows]:
        """Scenario → accuracy matrix, without those that have no row yet."""
        found = self.results.get("accuracy_matrix") or {}
        return {key: rows for key, rows in found.items() if rows}

    @property
    def is_joint(self) -> bool:
        """Whether the tasks were trained as one, so that a matrix has a single row."""
        return self.results.get("training") == "joint"


class Figure(NamedTuple):
    """How a figure is drawn, None where the run has nothing to show; and its numbers as CSV."""

    draw: Callable[[RunData, Theme], Drawing | None]
    table: Callable[[RunData], str]


def write_figures(folder: Path, results: Mapping[str, Any]) -> None:
    """Write what a run leaves in `folder`/figures; their numbers are in accuracy.csv.

    Nothing is written before the first task is evaluated.
    """
    from perdure.tracking.raster import to_png

    files = RunFiles(folder)
    data = RunData(results, files.metrics)
    for name in ("accuracy_matrix", "accuracy"):
        drawing = drawn(name, data)
        if drawing is None:
            continue
        files.figures.mkdir(exist_ok=True)
        write_atomically(files.figures / f"{name}.svg", to_svg(drawing).encode())
        if name == Path(ACCURACY_PICTURE).stem:
            write_atomically(files.accuracy_picture, to_png(drawing))


def drawn(name: str, data: RunData) -> Drawing | None:
    """The figure `name` for a file: on paper, below a line that says of which run it is."""
    drawing = FIGURES[name].draw(data, PAPER)
    if drawing is None:
        return None
    heading = Text(14, 26, data.title, PAPER.text, 14, bold=True)
    width = max(drawing.width, 28 + text_width(data.title, 15))
    shapes = (heading, *shifted(drawing.shapes, 0, HEADING))
    return Drawing(width, drawing.height + HEADING, f"{drawing.title}: {data.title}", shapes)


def accuracy_matrix(data: RunData, theme: Theme) -> Drawing | None:
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
    return accuracy_heatmap("accuracy matrix", panels, names, theme)


def accuracy_curves(data: RunData, theme: Theme) -> Drawing | None:
    """Accuracy on each task after each task, a panel a scenario; of a single row, over tasks."""
    if not data.matrices:
        return None
    axis = accuracy_axis(data.matrices)
    shapes: list[Shape] = []
    right, height = 0.0, 0.0
    for key, rows in data.matrices.items():
        panel = accuracy_chart(key, rows, axis, theme)
        name = Text(14, 0, f"{scenario_name(key)}, accuracy (%)", theme.text)
        shapes += shifted([name, *shifted(panel.shapes, 0, 8)], right, 22)
        right += panel.width
        height = panel.height + 30
    return Drawing(right, height, "accuracy after each task", tuple(shapes))


def accuracy_axis(matrices: Mapping[str, Rows]) -> Axis:
    """One axis for all scenarios: side by side they compare only on it."""
    values = (_percent(a) for rows in matrices.values() for row in rows for a in row)
    single = all(len(rows) == 1 for rows in matrices.values())
    low = 0.0 if single else min((v for v in values if v is not None), default=0.0)
    return nice_axis("accuracy", low, 100)


def accuracy_chart(scenario: str, rows: Rows, y: Axis, theme: Theme) -> Drawing:
    """The panel of one scenario."""
    if len(rows) == 1:
        return _single_row(scenario, rows[0], y, theme)
    n_tasks = len(rows)
    every = 1 + n_tasks // (MOST_NAMES + 1)
    lines = []
    for task in range(n_tasks):
        after, hint = range(task, n_tasks), f"task {task}"
        ys = [_percent(rows[i][task]) for i in after]
        color, label = theme.line(task / (n_tasks - 1)), "" if task % every else hint
        dash = DASHES[task % len(DASHES)]
        lines.append(Line(label, after, ys, color, dots=True, dash=dash, hint=hint))
    means = [_mean(row) for row in rows]
    lines.append(Line("mean", range(n_tasks), means, theme.text, thick=True))
    x = Axis("after task", 0, n_tasks - 1, _ticks(n_tasks))
    title = f"accuracy on each task after each task, {scenario_name(scenario)}"
    return line_chart(title, lines, x, y, theme)


def _single_row(scenario: str, row: Sequence[float | None], y: Axis, theme: Theme) -> Drawing:
    values = [_percent(accuracy) for accuracy in row]
    line = Line("", range(len(row)), values, theme.accent, dots=True, hint="accuracy")
    x = Axis("accuracy on task", -0.5, len(row) - 0.5, _ticks(len(row)))
    return line_chart(f"accuracy on each task, {scenario_name(scenario)}", [line], x, y, theme)


def _percent(accuracy: float | None) -> float | None:
    """None for what is no number, which is a gap in a line."""
    return None if accuracy is None or not math.isfinite(accuracy) else 100 * accuracy


def _mean(row: Sequence[float | None]) -> float | None:
    known = [value for value in map(_percent, row) if value is not None]
    return sum(known) / len(known) if len(known) == len(row) > 0 else None


def _ticks(n_tasks: int) -> range:
    return range(0, n_tasks, 1 if n_tasks <= 12 else 5 if n_tasks <= 60 else 10)


def loss_curve(data: RunData, theme: Theme) -> Drawing | None:
    """The mean training loss over the optimizer steps; dashed verticals where a task begins."""
    # Numbers alone: the rows of a million steps would take a gigabyte.
    steps, losses, ends = array("d"), array("d"), array("d")
    for step, loss in training_rows(data.metrics):
        if loss is None:
            ends.append(step)
        else:
            steps.append(step)
            losses.append(loss)
    if len(steps) < 2 or all(map(math.isnan, losses)):
        return None
    starts = [step for step in ends if step < steps[-1]]
    xs, ys = thinned(steps, [None if math.isnan(loss) else loss for loss in losses])
    x = nice_axis("optimizer step", 0, xs[-1], 7)
    y = nice_axis("loss", 0, max(y for y in ys if y is not None))
    line = Line("", xs, ys, theme.accent, hint="mean loss")
    return line_chart("mean training loss", [line], x, y, theme, marks=starts)


def training_rows(metrics: Path) -> Iterator[tuple[int, float | None]]:
    """Global step and loss (NaN for none) of each row of training; None at the end of a task."""
    if not metrics.exists():
        return
    with metrics.open("rb") as file:
        for line in file:
            if found := _STEP_ROW.match(line):
                loss = found[2]
                yield int(found[1]), math.nan if loss == b"null" else float(loss)
            elif line.startswith(b'{"kind": "evaluation"'):
                row = json.loads(line)
                if row["boundary"]:
                    yield row["global_step"], None


def _loss_rows(data: RunData) -> str:
    rows = training_rows(data.metrics)
    return csv_text(["global_step", "loss"], ([s, loss] for s, loss in rows if loss is not None))


def confusion_matrix(data: RunData, theme: Theme) -> Drawing | None:
    """Which classes are taken for which, after the last task; None above MOST_CLASSES."""
    found = confusion_of(data.results)
    if found is None or not 0 < len(found.names) <= MOST_CLASSES:
        return None
    return confusion_heatmap("confusion matrix", found.names, found.counts, theme)


def _confusion_rows(data: RunData) -> str:
    found = confusion_of(data.results) or Confusion((), ())
    return csv_text(
        ["true", "predicted", "count"],
        (
            [true, predicted, count]
            for true, row in zip(found.names, found.counts, strict=True)
            for predicted, count in zip(found.names, row, strict=True)
        ),
    )


def _accuracy_table(data: RunData) -> str:
    return accuracy_rows(data.results)


FIGURES = {
    "accuracy_matrix": Figure(accuracy_matrix, _accuracy_table),
    "accuracy": Figure(accuracy_curves, _accuracy_table),
    "loss": Figure(loss_curve, _loss_rows),
    "confusion": Figure(confusion_matrix, _confusion_rows),
}
"""By the names of their files."""
