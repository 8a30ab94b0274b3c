"""Vector graphics without a library: a drawing of rectangles, lines and texts, written as SVG.

A drawing is plain data, so that one function draws a figure for the report (inline SVG that follows
the page's light or dark colors), for a file (SVG), for PNG (raster.py) and for PDF (pdf.py).
Lengths are pixels of 1/96 inch in SVG and PNG, points in PDF; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby

from perdure.errors import printable

FONTS = "'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"
EM = 12.0
"""Size of a text where nothing else is said; inline SVG has it from the page."""
LETTER = 0.58
"""Mean width of a letter, in text sizes: room is made by it, since no font is opened for that."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Rect:
    """A filled rectangle; `hint` is shown under the pointer."""

    x: float
    y: float
    width: float
    height: float
    color: str
    hint: str = ""


@dataclass(frozen=True)
class Segment:
    """A straight line; `kind` is its class in CSS."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str
    dash: str = ""
    """SVG's dash pattern; empty is a solid line."""
    kind: str = ""
    width: float = 1.0


@dataclass(frozen=True)
class Curve:
    """A line through points; None is a gap."""

    points: Sequence[Point | None]
    color: str
    width: float = 1.8
    dash: str = ""
    hint: str = ""

    def pieces(self) -> Iterator[list[Point]]:
        """The runs of points between gaps."""
        for is_point, group in groupby(self.points, lambda point: point is not None):
            if is_point:
                yield [point for point in group if point is not None]


@dataclass(frozen=True)
class Text:
    """A line of text, (x, y) on its baseline; a turned one is read from below."""

    x: float
    y: float
    text: str
    color: str
    size: float = EM
    anchor: str = "start"
    """`start`, `middle` or `end`: what of the text lies at x."""
    bold: bool = False
    turned: bool = False
    kind: str = ""


DOT_RADIUS = 2.6


@dataclass(frozen=True)
class Area:
    """A filled polygon without an edge, as the band around a line; `opacity` is in (0, 1]."""

    points: Sequence[Point]
    color: str
    opacity: float
    hint: str = ""


DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Patterns of the lines of a chart in turn, for readers who see no colors."""
SYMBOLS = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Marks:
    """The same symbol at each point; a hollow one is an outline."""

    points: Sequence[Point]
    color: str
    symbol: str = "circle"
    """One of SYMBOLS."""
    radius: float = DOT_RADIUS
    hollow: bool = False
    hint: str = ""


Shape = Rect | Segment | Curve | Text | Area | Marks


@dataclass(frozen=True)
class Drawing:
    """Shapes on a page of `width` × `height`; `title` is read to those who do not see it."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]
    printed: bool = False
    """Whether a unit is a point (1/72 inch) in every format: a figure of a paper's column."""


def outline(symbol: str, at: Point, radius: float) -> list[Point]:
    """The corners of a symbol around `at`; those of a circle are none."""
    x, y = at
    r = radius
    if symbol == "square":
        r *= 0.9
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if symbol == "triangle":
        r *= 1.2
        return [(x, y - r), (x + 0.9 * r, y + 0.62 * r), (x - 0.9 * r, y + 0.62 * r)]
    if symbol == "diamond":
        r *= 1.3
        return [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
    if symbol == "cross":
        a, b = 0.42 * r, 1.15 * r
        return [
            (x - a, y - b), (x + a, y - b), (x + a, y - a), (x + b, y - a), (x + b, y + a),
            (x + a, y + a), (x + a, y + b), (x - a, y + b), (x - a, y + a), (x - b, y + a),
            (x - b, y - a), (x - a, y - a),
        ]  # fmt: skip
    return []


def text_width(text: str, size: float = EM) -> float:
    """About how wide `text` is."""
    return LETTER * size * len(text)


def shortened(text: str, width: float, size: float) -> str:
    """`text`, or as much of it as fits, with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    return text[: max(1, int(len(text) * width / text_width(text, size)) - 1)] + "…"


def shifted(shapes: Iterable[Shape], right: float, down: float) -> Iterator[Shape]:
    """The same shapes elsewhere."""
    for shape in shapes:
        if isinstance(shape, Segment):
            x1, x2 = shape.x1 + right, shape.x2 + right
            yield replace(shape, x1=x1, x2=x2, y1=shape.y1 + down, y2=shape.y2 + down)
        elif isinstance(shape, Curve):
            points = [None if p is None else (p[0] + right, p[1] + down) for p in shape.points]
            yield replace(shape, points=points)
        elif isinstance(shape, Area | Marks):
            yield replace(shape, points=[(x + right, y + down) for x, y in shape.points])
        else:
            yield replace(shape, x=shape.x + right, y=shape.y + down)


def to_svg(drawing: Drawing, inline: bool = False) -> str:
    """The drawing as SVG.

    Args:
        drawing: what to write.
        inline: as an element of an HTML page, whose text size and fonts it takes; else as a
            document of its own on white.
    """
    width, height = _number(drawing.width), _number(drawing.height)
    unit = "pt" if drawing.printed else ""
    title = escape(printable(drawing.title))
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"'
    body = "\n".join(_elements(drawing.shapes, inline))
    if inline:
        return f"{head}>\n{body}\n</svg>"
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg" width="{width}{unit}" height="{height}{unit}" '
        f'font-family="{FONTS}" font-size="{_number(EM)}">\n<title>{title}</title>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _elements(shapes: Iterable[Shape], inline: bool) -> Iterator[str]:
    for color, group in groupby(shapes, _plain_fill):
        if color is not None:
            yield _block([shape for shape in group if isinstance(shape, Rect)], color)
            continue
        for shape in group:
            if isinstance(shape, Text):
                yield _text(shape, inline)
            elif isinstance(shape, Segment):
                yield _segment(shape)
            elif isinstance(shape, Curve):
                yield _curve(shape)
            elif isinstance(shape, Area):
                yield _area(shape)
            elif isinstance(shape, Marks):
                yield _marks(shape)
            else:
                yield _rect(shape)


def _plain_fill(shape: Shape) -> str | None:
    """The color of a rectangle that can be one path with its neighbors: no hint of its own."""
    return shape.color if isinstance(shape, Rect) and not shape.hint else None


def _block(rects: Sequence[Rect], color: str) -> str:
    path = "".join(
        f"M{_number(r.x)} {_number(r.y)}h{_number(r.width)}v{_number(r.height)}"
        f"h{_number(-r.width)}z"
        for r in rects
    )
    return f'<path class="cells" d="{path}" fill="{color}"/>'


def _rect(rect: Rect) -> str:
    return (
        f'<rect x="{_number(rect.x)}" y="{_number(rect.y)}" width="{_number(rect.width)}" '
        f'height="{_number(rect.height)}" fill="{rect.color}">{_hint(rect.hint)}</rect>'
    )


def _segment(line: Segment) -> str:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    if line.width != 1:
        dash += f' stroke-width="{_number(line.width)}"'
    return (
        f'<line{_kind(line.kind)} x1="{_number(line.x1)}" x2="{_number(line.x2)}" '
        f'y1="{_number(line.y1)}" y2="{_number(line.y2)}" stroke="{line.color}"{dash}/>'
    )


def _curve(curve: Curve) -> str:
    path = " ".join(
        "M" + " L".join(f"{_number(x)} {_number(y)}" for x, y in piece) for piece in curve.pieces()
    )
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    drawn = (
        f'<path d="{path}" fill="none" stroke="{curve.color}" '
        f'stroke-width="{_number(curve.width)}" stroke-linejoin="round"{dash}/>'
    )
    return f"<g>{_hint(curve.hint)}{drawn}</g>"


def _area(area: Area) -> str:
    return (
        f'<path d="{_closed(area.points)}" fill="{area.color}" '
        f'fill-opacity="{_number(area.opacity)}">{_hint(area.hint)}</path>'
    )


def _marks(marks: Marks) -> str:
    style = f'fill="{marks.color}"'
    if marks.hollow:
        style = f'fill="none" stroke="{marks.color}" stroke-width="1.2"'
    if marks.symbol == "circle":
        drawn = "".join(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{_number(marks.radius)}" {style}/>'
            for x, y in marks.points
        )
    else:
        corners = (outline(marks.symbol, point, marks.radius) for point in marks.points)
        drawn = f'<path d="{" ".join(map(_closed, corners))}" {style}/>'
    return f"<g>{_hint(marks.hint)}{drawn}</g>"


def _closed(points: Iterable[Point]) -> str:
    return "M" + " L".join(f"{_number(x)} {_number(y)}" for x, y in points) + "z"


def _text(text: Text, inline: bool) -> str:
    at = f'x="{_number(text.x)}" y="{_number(text.y)}"'
    parts = [f"<text{_kind(text.kind)} {at}"]
    if text.size != EM:
        parts.append(f'font-size="{_number(text.size / EM)}em"' if inline else
                     f'font-size="{_number(text.size)}"')  # fmt: skip
    if text.anchor != "start":
        parts.append(f'text-anchor="{text.anchor}"')
    if text.bold:
        parts.append('font-weight="700"')
    if text.turned:
        parts.append(f'transform="rotate(-90 {_number(text.x)} {_number(text.y)})"')
    return f'{" ".join(parts)} fill="{text.color}">{escape(printable(text.text))}</text>'


def _hint(text: str) -> str:
    return f"<title>{escape(printable(text))}</title>" if text else ""


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _number(value: float) -> str:
    """At most two decimals, none where they are zero."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
