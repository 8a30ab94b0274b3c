"""What the figures of a run are drawn from, and what a figure is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from perdure.tracking.charts import RIGHT, SCREEN, Frame
from perdure.tracking.colors import Theme
from perdure.tracking.drawing import Drawing, Shape, Text, shifted
from perdure.tracking.formatting import run_title
from perdure.tracking.heatmaps import LEAST_FOR_TWO, Rows


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


class Draw(Protocol):
    """Draws a figure; None where the run has nothing to show."""

    def __call__(self, data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None: ...


class Figure(NamedTuple):
    """How a figure is drawn, and its numbers as CSV."""

    draw: Draw
    table: Callable[[RunData], str]


def panel_frame(n_panels: int, frame: Frame, named: bool = False) -> Frame:
    """The size of one of several panels.

    Args:
        n_panels: on a page each is as large as the frame; in print they share its width, or stand
            below each other in a column.
        frame: of the whole figure.
        named: whether lines are named at the right edge.
    """
    across = 1 if not frame.printed or frame.width < LEAST_FOR_TWO else min(n_panels, 2)
    right = RIGHT * frame.scale if named else frame.right
    return replace(frame, width=frame.width / across, right=right)


def beside(
    panels: Sequence[tuple[str, Drawing]], title: str, theme: Theme, frame: Frame
) -> Drawing:
    """Charts with a line above each, beside each other where the frame has room for that.

    Args:
        panels: what is written above, and the chart.
        title: of the whole, for those who do not see it.
        theme: its colors.
        frame: its size.
    """
    shapes: list[Shape] = []
    right = down = height = 0.0
    head, size = 22 * frame.scale, frame.text
    wide = max(chart.width for _, chart in panels)
    for name, chart in panels:
        if frame.printed and right and right + wide > frame.width + 1:
            right, down = 0.0, height
        shapes.append(Text(right + 14 * frame.scale, down + head, name, theme.text, size))
        shapes += shifted(chart.shapes, right, down + head + 8 * frame.scale)
        right += chart.width
        height = max(height, down + head + 8 * frame.scale + chart.height)
    across = right if not down else max(right, wide * (2 if wide * 2 <= frame.width + 1 else 1))
    return Drawing(across, height, title, tuple(shapes), frame.printed)
