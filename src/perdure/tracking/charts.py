"""Line charts (curves over tasks or steps) with named lines, as drawings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perdure.tracking.colors import Theme
from perdure.tracking.drawing import Curve, Drawing, Segment, Shape, Text

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 64, 14, 40
LABEL_HEIGHT = 13
"""Units between two labels at the right edge, so that they do not lie on each other."""


@dataclass(frozen=True)
class Line:
    """A line; a y of None is a gap. `color` is any CSS color, `name` is shown at its end."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    color: str
    thick: bool = False
    dots: bool = False
    dash: str = ""
    """SVG's dash pattern; empty is a solid line."""
    hint: str = ""
    """Shown under the pointer, where it is not the name."""


@dataclass(frozen=True)
class Axis:
    """The range that an axis shows, in data units, and where its ticks are."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]

    def place(self, value: float) -> float:
        """Where `value` lies, from 0 (low) to 1 (high)."""
        return (value - self.low) / ((self.high - self.low) or 1.0)


def nice_axis(name: str, low: float, high: float, most_ticks: int = 6) -> Axis:
    """An axis over [low, high] widened to round numbers: 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9)
    raw = span / max(most_ticks - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 10) for index in range(first, last + 1)]
    return Axis(name, ticks[0], max(ticks[-1], ticks[0] + step), ticks)


def line_chart(
    title: str, lines: Sequence[Line], x: Axis, y: Axis, theme: Theme, marks: Sequence[float] = ()
) -> Drawing:
    """A drawing of `lines`, named at their right ends, and dashed verticals at `marks`."""
    shapes = [
        *(shape for tick in y.ticks for shape in _grid_line(y, tick, theme)),
        *(_x_tick(x, tick, theme) for tick in x.ticks if x.low <= tick <= x.high),
        *(_mark(x, mark, theme) for mark in marks),
        *(_drawn(line, x, y) for line in lines),
        *_names(lines, y),
        Text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x.name, theme.muted, anchor="middle",
             kind="axis"),
    ]  # fmt: skip
    return Drawing(WIDTH, HEIGHT, title, tuple(shapes))


def thinned(
    xs: Sequence[float], ys: Sequence[float | None], most: int = 400
) -> tuple[list[float], list[float | None]]:
    """At most `most` points: means over runs of neighbors; a run of None alone stays a gap."""
    size = max(1, math.ceil(len(xs) / most))
    starts = range(0, len(xs), size)
    return (
        [_mean(xs[start : start + size]) or 0.0 for start in starts],
        [_mean([y for y in ys[start : start + size] if y is not None]) for start in starts],
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _at_x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _at_y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _grid_line(axis: Axis, tick: float, theme: Theme) -> Iterator[Shape]:
    y = _at_y(axis, tick)
    yield Segment(LEFT, y, WIDTH - RIGHT, y, theme.edge, kind="grid")
    yield Text(LEFT - 8, y + 4, f"{tick:,g}", theme.muted, anchor="end", kind="tick")


def _x_tick(axis: Axis, tick: float, theme: Theme) -> Text:
    y = HEIGHT - BOTTOM + 17
    return Text(_at_x(axis, tick), y, f"{tick:,g}", theme.muted, anchor="middle", kind="tick")


def _mark(axis: Axis, value: float, theme: Theme) -> Segment:
    x = _at_x(axis, value)
    return Segment(x, TOP, x, HEIGHT - BOTTOM, theme.muted, dash="3 4", kind="mark")


def _drawn(line: Line, x: Axis, y: Axis) -> Curve:
    points = [
        None if value is None else (_at_x(x, at), _at_y(y, value))
        for at, value in zip(line.xs, line.ys, strict=True)
    ]
    width = 3.0 if line.thick else 1.8
    return Curve(points, line.color, width, line.dash, line.dots, line.hint or line.name)


def _names(lines: Sequence[Line], axis: Axis) -> list[Text]:
    """Each line's name beside its last point, pushed down where two would overlap."""
    last_values = [(line.ys[-1], line) for line in lines if line.name and line.ys]
    ends = [(_at_y(axis, value), line) for value, line in last_values if value is not None]
    ends.sort(key=lambda end: end[0])
    texts, lowest = [], HEIGHT - BOTTOM + LABEL_HEIGHT
    y = -math.inf
    for index, (own_y, line) in enumerate(ends):
        room_below = LABEL_HEIGHT * (len(ends) - 1 - index)
        y = max(y + LABEL_HEIGHT, min(own_y + 4, lowest - room_below))
        at = WIDTH - RIGHT + 7
        texts.append(Text(at, y, line.name, line.color, bold=line.thick, kind="name"))
    return texts
