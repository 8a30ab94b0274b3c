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


@dataclass(frozen=True)
class Curve:
    """A line through points; None is a gap."""

    points: Sequence[Point | None]
    color: str
    width: float = 1.8
    dash: str = ""
    dots: bool = False
    hint: str = ""

    def pieces(self) -> Iterator[list[Point]]:
        """The runs of points between gaps."""
        for is_point, group in groupby(self.points, lambda point: point is not None):
            if is_point:
                yield [point for point in group if point is not None]


DOT_RADIUS = 2.6


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


Shape = Rect | Segment | Curve | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes on a page of `width` × `height`; `title` is read to those who do not see it."""

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]


def text_width(text: str, size: float = EM) -> float:
    """About how wide `text` is."""
    return LETTER * size * len(text)


def shifted(shapes: Iterable[Shape], right: float, down: float) -> Iterator[Shape]:
    """The same shapes elsewhere."""
    for shape in shapes:
        if isinstance(shape, Segment):
            x1, x2 = shape.x1 + right, shape.x2 + right
            yield replace(shape, x1=x1, x2=x2, y1=shape.y1 + down, y2=shape.y2 + down)
        elif isinstance(shape, Curve):
            points = [None if p is None else (p[0] + right, p[1] + down) for p in shape.points]
            yield replace(shape, points=points)
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
    title = escape(printable(drawing.title))
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"'
    body = "\n".join(_elements(drawing.shapes, inline))
    if inline:
        return f"{head}>\n{body}\n</svg>"
    return (
        f'{head} xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
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
        f'<path d="{path}" fill="none" stroke="{curve.color}" stroke-width="{curve.width}" '
        f'stroke-linejoin="round"{dash}/>'
    )
    if curve.dots:
        drawn += "".join(
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{DOT_RADIUS}" fill="{curve.color}"/>'
            for piece in curve.pieces()
            for x, y in piece
        )
    return f"<g>{_hint(curve.hint)}{drawn}</g>"


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
