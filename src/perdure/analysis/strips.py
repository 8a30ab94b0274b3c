"""Distributions as strips and boxes: each value as a point, quartiles and median, a row a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.analysis.curves import quartiles
from perdure.tracking.charts import Frame, snug_axis
from perdure.tracking.colors import Theme
from perdure.tracking.drawing import (
    Area,
    Curve,
    Drawing,
    Marks,
    Segment,
    Shape,
    Text,
    shortened,
    text_width,
)

ROW = 2.6
"""Height of a row, in sizes of its letters."""
_LEAST_VALUES = 3
"""Values from which a box says more than its points."""


def strip_chart(
    name: str,
    rows: Sequence[tuple[str, Sequence[float]]],
    colors: Sequence[str],
    theme: Theme,
    frame: Frame,
) -> Drawing:
    """A row a group, its name at the left; values along the x axis.

    Args:
        name: of the x axis.
        rows: names and values, at least one value each.
        colors: of the rows.
        theme: the other colors.
        frame: the width, and the letters; the height follows from the rows.
    """
    size = frame.text
    most = 0.45 * frame.width
    left = min(max(text_width(label, size) for label, _ in rows), most) + size
    row, top = ROW * size, 0.8 * size
    values = [value for _, found in rows for value in found]
    axis = snug_axis(name, min(values), max(values), 6 if frame.width > 300 else 5)
    right = frame.width - 1.6 * size
    bottom = top + row * len(rows)

    def at(value: float) -> float:
        return left + axis.place(value) * (right - left)

    shapes: list[Shape] = []
    for index, tick in enumerate(axis.ticks):
        shapes.append(Segment(at(tick), top, at(tick), bottom, theme.edge, kind="grid",
                              width=0.5 if frame.printed else 1.0))  # fmt: skip
        shapes.append(Text(at(tick), bottom + 1.4 * size, axis.label(index), theme.muted, size,
                           "middle", kind="tick"))  # fmt: skip
    for index, ((label, found), color) in enumerate(zip(rows, colors, strict=True)):
        middle = top + (index + 0.5) * row
        shown = shortened(label, most, size)
        shapes.append(Text(left - size / 2, middle + size / 3, shown, theme.text, size, "end"))
        places = [at(value) for value in found]
        shapes += _row(places, middle, row, color, f"{label}: {len(found)} values", frame)
    height = bottom + 3.2 * size
    shapes.append(Text((left + right) / 2, height - 0.5 * size, name, theme.muted, size, "middle",
                       kind="axis"))  # fmt: skip
    return Drawing(frame.width, height, name, tuple(shapes), frame.printed)


def _row(
    places: Sequence[float], middle: float, height: float, color: str, hint: str, frame: Frame
) -> Iterator[Shape]:
    half, width = 0.26 * height, 1.4 * frame.scale
    if len(places) >= _LEAST_VALUES:
        low, median, high = quartiles(places)
        box = [(low, middle - half), (high, middle - half), (high, middle + half),
               (low, middle + half)]  # fmt: skip
        yield Area(box, color, 0.18, hint)
        yield Curve([*box, box[0]], color, width)
        yield Curve([(min(places), middle), (low, middle)], color, width)
        yield Curve([(high, middle), (max(places), middle)], color, width)
        yield Curve([(median, middle - half), (median, middle + half)], color, 2 * width)
    radius = 2.2 * max(frame.scale, 0.75)
    points = [
        (place, middle + half * 1.2 * (((index * 0.618034) % 1) - 0.5))
        for index, place in enumerate(sorted(places))
    ]
    yield Marks(points, color, "circle", radius, hint=hint)
