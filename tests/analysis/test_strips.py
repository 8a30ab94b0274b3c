"""Strips and boxes: every value is there, and the box has its quartiles."""

from __future__ import annotations

import pytest

from perdure.analysis.curves import quartiles
from perdure.analysis.strips import strip_chart
from perdure.tracking.charts import UNNAMED
from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import Area, Marks, Segment, Text

VALUES = [10.0, 20.0, 25.0, 40.0]


def test_a_box_spans_the_quartiles_on_the_axis() -> None:
    drawing = strip_chart("accuracy", [("er", VALUES)], ["#000000"], PAPER, UNNAMED)
    grid = [s for s in drawing.shapes if isinstance(s, Segment)]
    ticks = [s for s in drawing.shapes if isinstance(s, Text) and s.kind == "tick"]
    at = {float(tick.text): line.x1 for tick, line in zip(ticks, grid, strict=True)}
    low, high = min(at), max(at)

    def value(x: float) -> float:
        return low + (x - at[low]) / (at[high] - at[low]) * (high - low)

    (box,) = [s for s in drawing.shapes if isinstance(s, Area)]
    edges = sorted({round(value(x), 6) for x, _ in box.points})
    assert edges == pytest.approx([quartiles(VALUES)[0], quartiles(VALUES)[2]])
    (strip,) = [s for s in drawing.shapes if isinstance(s, Marks)]
    assert [value(x) for x, _ in strip.points] == pytest.approx(VALUES)


def test_few_values_have_no_box_and_long_names_an_ellipsis() -> None:
    rows = [("x" * 200, [1.0, 2.0])]
    drawing = strip_chart("accuracy", rows, ["#000000"], PAPER, UNNAMED)
    assert not [s for s in drawing.shapes if isinstance(s, Area)]
    assert any(s.text.endswith("…") for s in drawing.shapes if isinstance(s, Text))
