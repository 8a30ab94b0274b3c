"""Line charts as inline SVG: a few kilobytes, colored by the CSS of the document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
    title: str, lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[float] = ()
) -> str:
    """An SVG element with `lines`, named at their right ends, and dashed verticals at `marks`."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(_grid_line(y, tick) for tick in y.ticks),
        *(_x_tick(x, tick) for tick in x.ticks if x.low <= tick <= x.high),
        *(_mark(x, mark) for mark in marks),
        *(_drawn(line, x, y) for line in lines),
        *_names(lines, y),
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" '
        f'text-anchor="middle">{escape(x.name)}</text>',
        "</svg>",
    ]
    return "\n".join(parts)


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


def _grid_line(axis: Axis, tick: float) -> str:
    y = _at_y(axis, tick)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:,g}</text>'
    )


def _x_tick(axis: Axis, tick: float) -> str:
    x = _at_x(axis, tick)
    y = HEIGHT - BOTTOM + 17
    return f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{tick:,g}</text>'


def _mark(axis: Axis, value: float) -> str:
    x = _at_x(axis, value)
    return f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _drawn(line: Line, x: Axis, y: Axis) -> str:
    points = [
        None if value is None else (_at_x(x, at), _at_y(y, value))
        for at, value in zip(line.xs, line.ys, strict=True)
    ]
    path, pen_up = [], True
    for point in points:
        if point is not None:
            path.append(f"{'M' if pen_up else 'L'}{point[0]} {point[1]}")
        pen_up = point is None
    width = 3 if line.thick else 1.8
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    drawn = f'<path d="{" ".join(path)}" stroke="{line.color}" stroke-width="{width}"{dash}/>'
    if line.dots:
        drawn += "".join(_dot(line, *point) for point in points if point is not None)
    hint = f"<title>{escape(line.hint or line.name)}</title>"
    return f"<g>{hint}{drawn}</g>"


def _dot(line: Line, x: float, y: float) -> str:
    return f'<circle cx="{x}" cy="{y}" r="2.6" fill="{line.color}"/>'


def _names(lines: Sequence[Line], axis: Axis) -> list[str]:
    """Each line's name beside its last point, pushed down where two would overlap."""
    last_values = [(line.ys[-1], line) for line in lines if line.name and line.ys]
    ends = [(_at_y(axis, value), line) for value, line in last_values if value is not None]
    ends.sort(key=lambda end: end[0])
    texts, lowest = [], HEIGHT - BOTTOM + LABEL_HEIGHT
    y = -math.inf
    for index, (own_y, line) in enumerate(ends):
        room_below = LABEL_HEIGHT * (len(ends) - 1 - index)
        y = max(y + LABEL_HEIGHT, min(own_y + 4, lowest - room_below))
        weight = ' font-weight="700"' if line.thick else ""
        texts.append(
            f'<text class="name" x="{WIDTH - RIGHT + 7}" y="{y:.1f}" fill="{line.color}"'
            f"{weight}>{escape(line.name)}</text>"
        )
    return texts
