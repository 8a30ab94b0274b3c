"""Line charts (curves over tasks or steps) with named lines, bands and marks, as drawings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from perdure.tracking.colors import Theme
from perdure.tracking.drawing import (
    DOT_RADIUS,
    EM,
    Area,
    Curve,
    Drawing,
    Marks,
    Segment,
    Shape,
    Text,
    shifted,
    shortened,
    text_width,
)

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 64, 14, 40
LABEL_HEIGHT = 13
"""Units between two labels at the right edge, so that they do not lie on each other."""
NAME_ROOM = 1.5
"""Sizes of letters that the name of the y axis takes."""
BAND = 0.16
"""Opacity of a band: two that overlap stay two."""


@dataclass(frozen=True)
class Line:
    """A line; a y of None is a gap. `color` is any CSS color, `name` is shown at its end."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    color: str
    thick: bool = False
    symbol: str = ""
    """Drawn at each point; of `drawing.SYMBOLS`, or empty."""
    hollow: bool = False
    """Whether its symbol is an outline."""
    dash: str = ""
    """SVG's dash pattern; empty is a solid line."""
    hint: str = ""
    """Shown under the pointer, where it is not the name."""
    spread: Sequence[float | None] = ()
    """Half the height of the band around each point; None or 0 is no band there."""


@dataclass(frozen=True)
class Axis:
    """The range that an axis shows, in data units, and where its ticks are."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    labels: Sequence[str] = ()
    """What the ticks are called, where that is not their number."""
    log: bool = False
    """Equal ratios are equally far apart; `low` is above 0."""

    def place(self, value: float) -> float:
        """Where `value` lies, from 0 (low) to 1 (high)."""
        if self.log:
            return math.log(value / self.low) / (math.log(self.high / self.low) or 1.0)
        return (value - self.low) / ((self.high - self.low) or 1.0)

    def label(self, index: int) -> str:
        """What stands at the tick number `index`."""
        return self.labels[index] if self.labels else f"{self.ticks[index]:,g}"


@dataclass(frozen=True)
class Frame:
    """How large a chart is: of the report's page, or of a paper's column, and its letters.

    Attributes:
        width, height: of the whole drawing, in its units, without a legend.
        text: size of its letters.
        right: room at the right edge, where lines are named if there is no legend.
        printed: whether a unit is a point.
    """

    width: float = WIDTH
    height: float = HEIGHT
    text: float = EM
    right: float = RIGHT
    printed: bool = False

    @property
    def scale(self) -> float:
        """Widths of lines and margins, as a share of those on the page."""
        return self.text / EM

    @property
    def left(self) -> float:
        return LEFT * self.scale

    @property
    def top(self) -> float:
        return TOP * self.scale

    @property
    def bottom(self) -> float:
        return BOTTOM * self.scale

    @property
    def beside_name(self) -> Frame:
        """What is left beside the name of the y axis."""
        return replace(self, width=self.width - NAME_ROOM * self.text)

    def at_x(self, axis: Axis, value: float) -> float:
        """The horizontal place of a value."""
        return round(self.left + axis.place(value) * (self.width - self.left - self.right), 2)

    def at_y(self, axis: Axis, value: float) -> float:
        """The vertical place of a value."""
        inner = self.height - self.top - self.bottom
        return round(self.height - self.bottom - axis.place(value) * inner, 2)


SCREEN = Frame()
UNNAMED = Frame(right=16.0)
"""The same of a chart whose lines a legend names."""
COLUMNS = {
    1: Frame(244.0, 168.0, 8.0, 8.0, printed=True),
    2: Frame(504.0, 216.0, 8.0, 8.0, printed=True),
}
"""Charts as wide as one column, or as both, of a paper on letter or A4: 3.4 and 7 inches."""


def nice_axis(name: str, low: float, high: float, most_ticks: int = 6) -> Axis:
    """An axis over [low, high] widened to round numbers: 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9)
    raw = span / max(most_ticks - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 10) for index in range(first, last + 1)]
    return Axis(name, ticks[0], max(ticks[-1], ticks[0] + step), ticks)


def snug_axis(name: str, low: float, high: float, most_ticks: int = 7) -> Axis:
    """An axis that ends where the data do, but for a little room, with round ticks in between."""
    room = 0.03 * (high - low or 1.0)
    wide = nice_axis(name, low, high, most_ticks)
    low, high = low - room, high + room
    return Axis(name, low, high, [tick for tick in wide.ticks if low <= tick <= high])


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    theme: Theme,
    marks: Sequence[float] = (),
    frame: Frame = SCREEN,
) -> Drawing:
    """A drawing of `lines`, named at their right ends, and dashed verticals at `marks`."""
    shapes = [
        *axes(x, y, theme, frame),
        *(_mark(x, mark, theme, frame) for mark in marks),
        *(shape for line in lines for shape in drawn_line(line, x, y, frame)),
        *_names(lines, y, frame),
    ]
    return Drawing(frame.width, frame.height, title, tuple(shapes), frame.printed)


def axes(x: Axis, y: Axis, theme: Theme, frame: Frame) -> Iterator[Shape]:
    """Lines of the grid, ticks, and the name of the x axis."""
    size = frame.text
    for index, tick in enumerate(y.ticks):
        at = frame.at_y(y, tick)
        yield Segment(frame.left, at, frame.width - frame.right, at, theme.edge, kind="grid",
                      width=0.5 if frame.printed else 1.0)  # fmt: skip
        yield Text(frame.left - 8 * frame.scale, at + size / 3, y.label(index), theme.muted, size,
                   "end", kind="tick")  # fmt: skip
    below = frame.height - frame.bottom + 17 * frame.scale
    for index, tick in enumerate(x.ticks):
        if x.low <= tick <= x.high:
            at = frame.at_x(x, tick)
            yield Text(at, below, x.label(index), theme.muted, size, "middle", kind="tick")
    middle = (frame.left + frame.width - frame.right) / 2
    yield Text(middle, frame.height - 6 * frame.scale, x.name, theme.muted, size, "middle",
               kind="axis")  # fmt: skip


def drawn_line(line: Line, x: Axis, y: Axis, frame: Frame) -> Iterator[Shape]:
    """The band, the line, its symbols."""
    yield from _band(line, x, y, frame)
    points = [
        None if value is None else (frame.at_x(x, at), frame.at_y(y, value))
        for at, value in zip(line.xs, line.ys, strict=True)
    ]
    width = (3.0 if line.thick else 1.8) * frame.scale
    dash = scaled_dash(line.dash, frame)
    yield Curve(points, line.color, width, dash, line.hint or line.name)
    if line.symbol:
        known = [point for point in points if point is not None]
        radius = DOT_RADIUS * max(frame.scale, 0.75)
        yield Marks(known, line.color, line.symbol, radius, line.hollow, line.hint or line.name)


def scaled_dash(dash: str, frame: Frame) -> str:
    """A dash pattern of the page's, for lines as thin as the frame's."""
    if frame.scale == 1:
        return dash
    return " ".join(f"{float(part) * frame.scale:.2g}" for part in dash.split())


def _band(line: Line, x: Axis, y: Axis, frame: Frame) -> Iterator[Area]:
    """A polygon for each run of points with a spread."""
    run: list[tuple[float, float, float]] = []
    for at, value, spread in zip(line.xs, line.ys, line.spread, strict=False):
        if value is None or spread is None:
            yield from _polygon(run, line.color)
            run = []
            continue
        low, high = max(value - spread, y.low), min(value + spread, y.high)
        run.append((frame.at_x(x, at), frame.at_y(y, low), frame.at_y(y, high)))
    yield from _polygon(run, line.color)


def _polygon(run: Sequence[tuple[float, float, float]], color: str) -> Iterator[Area]:
    if len(run) > 1 and any(low != high for _, low, high in run):
        upper = [(at, high) for at, _, high in run]
        yield Area([*upper, *((at, low) for at, low, _ in reversed(run))], color, BAND)


def with_legend(drawing: Drawing, lines: Sequence[Line], theme: Theme, frame: Frame) -> Drawing:
    """The drawing below a legend of `lines`: a piece of each, and its name, in columns."""
    size, scale = frame.text, frame.scale
    sample = (26 if any(line.xs for line in lines) else 8) * scale
    name, gap, row = sample + 6 * scale, 14 * scale, 1.45 * size
    widest = max((text_width(line.name, size) for line in lines), default=0.0)
    room = drawing.width - 8 * scale
    across = max(1, min(len(lines), int((room + gap) / (name + widest + gap))))
    shapes: list[Shape] = []
    for index, line in enumerate(lines):
        x = 6 * scale + (index % across) * (name + widest + gap)
        y = 1.3 * size + (index // across) * row
        shapes += _sample(line, x, y - 0.34 * size, sample, frame)
        shown = shortened(line.name, room - name, size)
        shapes.append(Text(x + name, y, shown, theme.text, size))
    height = 0.5 * size + math.ceil(len(lines) / across) * row
    below = shifted(drawing.shapes, 0, height)
    return replace(drawing, height=drawing.height + height, shapes=(*shapes, *below))


def _sample(line: Line, x: float, y: float, length: float, frame: Frame) -> Iterator[Shape]:
    dash = scaled_dash(line.dash, frame)
    if line.xs:
        yield Curve([(x, y), (x + length, y)], line.color, 1.8 * frame.scale, dash)
    if line.symbol:
        radius = DOT_RADIUS * max(frame.scale, 0.75) * (1 if line.xs else 1.3)
        yield Marks([(x + length / 2, y)], line.color, line.symbol, radius, line.hollow)


def with_y_name(drawing: Drawing, name: str, theme: Theme, frame: Frame) -> Drawing:
    """A drawing in `frame.beside_name` with the name of its y axis, in the whole frame."""
    middle = (frame.top + drawing.height - frame.bottom) / 2
    text = Text(1.2 * frame.text, middle, name, theme.muted, frame.text, "middle", turned=True)
    beside = tuple(shifted(drawing.shapes, NAME_ROOM * frame.text, 0))
    return replace(drawing, width=frame.width, shapes=(text, *beside))


def with_note(drawing: Drawing, note: str, theme: Theme, frame: Frame) -> Drawing:
    """The drawing above a line that says how it is to be read; its clauses in several, if need be.

    `note` has clauses with `; ` between them.
    """
    size = 0.9 * frame.text
    clauses = note.split("; ") if text_width(note, size) > 0.95 * drawing.width else [note]
    texts, y = [], drawing.height
    for clause in filter(None, clauses):
        y += 1.4 * size
        at = drawing.width - 4 * frame.scale
        texts.append(Text(at, y - 0.4 * size, clause, theme.muted, size, "end"))
    return replace(drawing, height=y, shapes=(*drawing.shapes, *texts))


def task_ticks(n_tasks: int) -> range:
    """Which tasks are named along an axis."""
    return range(0, n_tasks, 1 if n_tasks <= 12 else 5 if n_tasks <= 60 else 10)


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


def _mark(axis: Axis, value: float, theme: Theme, frame: Frame) -> Segment:
    x = frame.at_x(axis, value)
    width = 0.5 if frame.printed else 1.0
    return Segment(x, frame.top, x, frame.height - frame.bottom, theme.muted, "3 4", "mark", width)


def _names(lines: Sequence[Line], axis: Axis, frame: Frame) -> list[Text]:
    """Each line's name beside its last point, pushed down where two would overlap."""
    last_values = [(line.ys[-1], line) for line in lines if line.name and line.ys]
    ends = [(frame.at_y(axis, value), line) for value, line in last_values if value is not None]
    ends.sort(key=lambda end: end[0])
    apart = LABEL_HEIGHT * frame.scale
    texts, lowest = [], frame.height - frame.bottom + apart
    y = -math.inf
    for index, (own_y, line) in enumerate(ends):
        room_below = apart * (len(ends) - 1 - index)
        y = max(y + apart, min(own_y + 4 * frame.scale, lowest - room_below))
        at = frame.width - frame.right + 7 * frame.scale
        texts.append(Text(at, y, line.name, line.color, frame.text, bold=line.thick, kind="name"))
    return texts
