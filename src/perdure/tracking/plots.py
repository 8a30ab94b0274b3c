"""Heatmap of the accuracy matrix with matplotlib; without pyplot, which keeps global state."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.io.atomic import write_atomically
from perdure.tracking.colors import COLOR_SCALE, accuracy_color, text_color
from perdure.tracking.formatting import percent, run_title, scenario_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MOST_TASKS_WITH_TEXT = 12
DPI = 110
LEFT, RIGHT, TOP, BOTTOM, GAP = 0.75, 0.25, 0.72, 0.58, 0.45
"""Inches around the panels, where axis names and titles go, and between two of them."""
TITLE_INCHES_PER_LETTER = 0.1
COLOR_BAR_WIDTH = 0.16
"""Inches of the color scale, drawn where the cells hold no numbers."""


def draw_accuracy_matrix(results: dict[str, Any], path: Path) -> None:
    """Write `results["accuracy_matrix"]` to `path` (PNG): a panel a scenario, rows = after task i.

    Nothing is written before the first task is evaluated.
    """
    matrices = {key: rows for key, rows in results["accuracy_matrix"].items() if rows}
    if not matrices:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_rows = max(map(len, matrices.values()))
    n_columns = max(len(row) for rows in matrices.values() for row in rows)
    with_text = max(n_rows, n_columns) <= MOST_TASKS_WITH_TEXT
    width, height = _panel_size(n_rows, n_columns, with_text)
    right = LEFT + len(matrices) * (width + GAP) - GAP
    color_bar_room = 0 if with_text else GAP + 2 * COLOR_BAR_WIDTH
    title = f"{run_title(results)}, seed {results.get('seed', '?')}"
    right_edge = max(right + color_bar_room, LEFT + TITLE_INCHES_PER_LETTER * len(title))
    figure = Figure((right_edge + RIGHT, BOTTOM + height + TOP), dpi=DPI)
    FigureCanvasAgg(figure)
    for panel, (scenario, rows) in enumerate(matrices.items()):
        axes = _axes(figure, LEFT + panel * (width + GAP), width, height)
        _heat_map(axes, rows, n_columns, with_text)
        _name_axes(axes, scenario, results, n_rows, n_columns, first=panel == 0)
    if not with_text:
        _color_bar(_axes(figure, right + GAP / 2, COLOR_BAR_WIDTH, height))
    title_at = (LEFT / figure.get_figwidth(), 1 - 0.12 / figure.get_figheight())
    figure.text(*title_at, title, va="top", size=11, weight="bold", parse_math=False)
    image = io.BytesIO()
    figure.savefig(image, format="png", pil_kwargs={"compress_level": 3})
    write_atomically(path, image.getvalue())


def _panel_size(n_rows: int, n_columns: int, with_text: bool) -> tuple[float, float]:
    """Inches of one panel: cells wide enough for `100.0`, a lone row not thinner than a line."""
    cell_width, cell_height = (0.58, 0.44) if with_text else (0.24, 0.2)
    return max(n_columns * cell_width, 2.4), max(n_rows * cell_height, 0.6)


def _axes(figure: Figure, left: float, width: float, height: float) -> Axes:
    """Bare axes placed in inches; a layout engine would draw everything twice."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, BOTTOM / up, width / across, height / up))
    axes.tick_params(length=0, labelsize=8.5)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def _colormap() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("accuracy", COLOR_SCALE)


def _heat_map(axes: Axes, rows: list[list[float | None]], n_columns: int, with_text: bool) -> None:
    known = [[math.nan if value is None else value for value in row] for row in rows]
    grid = [[*row, *[math.nan] * (n_columns - len(row))] for row in known]
    axes.pcolormesh(grid, cmap=_colormap(), vmin=0, vmax=1, edgecolors="white", linewidth=1)
    if not with_text:
        return
    for i, row in enumerate(rows):
        for j, accuracy in enumerate(row):
            axes.text(
                j + 0.5, i + 0.5, percent(accuracy, 1), ha="center", va="center",
                fontsize=8.5, color=text_color(accuracy_color(accuracy or 0.0)),
            )  # fmt: skip


def _color_bar(axes: Axes) -> None:
    """What a color means, for cells too small for numbers."""
    axes.pcolormesh([[step / 40] for step in range(41)], cmap=_colormap(), vmin=0, vmax=1)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 20.5, 41], ["0 %", "50 %", "100 %"])


def _name_axes(
    axes: Axes, scenario: str, results: dict[str, Any], n_rows: int, n_columns: int, *, first: bool
) -> None:
    average = (results.get("average_accuracy") or {}).get(scenario)
    title = f"{scenario_name(scenario)}: average {percent(average)} %"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("accuracy (%) on task", fontsize=9)
    axes.set_ylim(n_rows, 0)
    every = 1 if max(n_rows, n_columns) <= MOST_TASKS_WITH_TEXT else 5
    tasks = range(0, n_columns, every)
    axes.set_xticks([task + 0.5 for task in tasks], [str(task) for task in tasks])
    joint = results.get("training") == "joint"
    names = ["joint"] if joint else [str(task) for task in range(0, n_rows, every)]
    axes.set_yticks([task + 0.5 for task in range(0, n_rows, every)], names if first else [])
    if first and not joint:
        axes.set_ylabel("after task", fontsize=9)
