"""PNG (bitmap) of a drawing, with Pillow: some 0.05 CPU seconds, a tenth of matplotlib's import.

Pillow's own font has one weight and the letters of ASCII; a text with others takes DejaVu Sans
where the system has it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from perdure.errors import printable
from perdure.tracking.drawing import (
    Area,
    Curve,
    Drawing,
    Marks,
    Point,
    Rect,
    Segment,
    Text,
    outline,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

SCALE = 2
"""Pixels of the file a unit of the drawing: sharp on dense screens and on slides."""
PRINTED = 4
"""The same of a figure for a column of a paper, whose unit is a point: 288 pixels an inch."""
SMOOTH = 2
"""Lines are drawn this much larger and reduced, since Pillow's are jagged; cells need it not."""
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_OTHER_FONT = "DejaVuSans.ttf"


def to_png(drawing: Drawing) -> bytes:
    """The drawing on white as a PNG file: `SCALE` pixels a unit, `PRINTED` of one for print."""
    from PIL import Image, ImageDraw

    is_drawn = any(isinstance(shape, Curve | Area | Marks) for shape in drawing.shapes)
    smooth = SMOOTH if is_drawn else 1
    pixels = PRINTED if drawing.printed else SCALE
    scale = pixels * smooth
    size = round(drawing.width * scale), round(drawing.height * scale)
    image = Image.new("RGB", size, "white")
    canvas = _Canvas(image, ImageDraw.Draw(image), scale)
    for shape in drawing.shapes:
        if isinstance(shape, Rect):
            canvas.rect(shape)
        elif isinstance(shape, Segment):
            ends = [(shape.x1, shape.y1), (shape.x2, shape.y2)]
            canvas.line(ends, shape.color, shape.width, shape.dash)
        elif isinstance(shape, Curve):
            canvas.curve(shape)
        elif isinstance(shape, Area):
            canvas.area(shape)
        elif isinstance(shape, Marks):
            canvas.marks(shape)
        else:
            canvas.text(shape)
    if smooth > 1:
        image = image.reduce(smooth)
    file = io.BytesIO()
    size_on_paper = {"dpi": (72 * pixels, 72 * pixels)} if drawing.printed else {}
    # A run at its end saves time, a figure that somebody asked for saves bytes.
    image.save(file, "PNG", compress_level=9 if drawing.printed else 3, **size_on_paper)
    return file.getvalue()


class _Canvas:
    """An image that is drawn on in the drawing's units."""

    def __init__(self, image: Image, pen: ImageDraw, scale: int) -> None:
        self._image = image
        self._pen = pen
        self._scale = scale
        self._fonts: dict[tuple[float, bool], FreeTypeFont] = {}

    def rect(self, rect: Rect) -> None:
        left, top, right, bottom = (
            round(self._scale * edge)
            for edge in (rect.x, rect.y, rect.x + rect.width, rect.y + rect.height)
        )
        if right > left and bottom > top:
            self._pen.rectangle((left, top, right - 1, bottom - 1), fill=rect.color)

    def curve(self, curve: Curve) -> None:
        for piece in curve.pieces():
            self.line(piece, curve.color, curve.width, curve.dash)

    def area(self, area: Area) -> None:
        """What lies below shows through."""
        from PIL import Image, ImageDraw

        corners = [(self._scale * x, self._scale * y) for x, y in area.points]
        if len(corners) < 3:
            return
        left, top = (int(min(axis)) for axis in zip(*corners, strict=True))
        right, bottom = (int(max(axis)) + 1 for axis in zip(*corners, strict=True))
        mask = Image.new("L", (right - left + 1, bottom - top + 1))
        shape = [(x - left, y - top) for x, y in corners]
        ImageDraw.Draw(mask).polygon(shape, fill=round(255 * area.opacity))
        self._image.paste(area.color, (left, top), mask)

    def marks(self, marks: Marks) -> None:
        fill = None if marks.hollow else marks.color
        for point in marks.points:
            corners = outline(marks.symbol, point, marks.radius)
            at = [(self._scale * x, self._scale * y) for x, y in corners]
            width = max(1, round(1.2 * self._scale)) if marks.hollow else 1
            if at:
                self._pen.polygon(at, fill, marks.color, width)
            else:
                center = self._scale * point[0], self._scale * point[1]
                self._pen.circle(center, self._scale * marks.radius, fill, marks.color, width)

    def line(self, points: Sequence[Point], color: str, width: float, dash: str) -> None:
        pieces = _dashes(points, [float(part) for part in dash.split()]) if dash else [points]
        for piece in pieces:
            at = [(self._scale * x, self._scale * y) for x, y in piece]
            self._pen.line(at, color, max(1, round(self._scale * width)), joint="curve")

    def text(self, text: Text) -> None:
        shown = printable(text.text)
        font = self._font(text.size, shown.isascii())
        at = self._scale * text.x, self._scale * text.y
        anchor = _ANCHORS[text.anchor]
        if not text.turned:
            self._pen.text(at, shown, text.color, font, anchor)
            return
        self._turned(at, shown, text.color, font, anchor)

    def _turned(self, at: Point, text: str, color: str, font: FreeTypeFont, anchor: str) -> None:
        """A text read from below, its baseline the vertical through `at`."""
        from PIL import Image, ImageDraw

        left, top, right, bottom = font.getbbox(text, anchor=anchor)
        mask = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
        ImageDraw.Draw(mask).text((1 - left, 1 - top), text, 255, font, anchor)
        place = round(at[0] + top) - 1, round(at[1] - right) - 1
        self._image.paste(color, place, mask.transpose(Image.Transpose.ROTATE_90))

    def _font(self, size: float, is_ascii: bool) -> FreeTypeFont:
        from PIL import ImageFont

        key = size, is_ascii
        if key not in self._fonts:
            pixels = self._scale * size
            try:
                own = None if is_ascii else ImageFont.truetype(_OTHER_FONT, pixels)
            except OSError:
                own = None
            default = own or ImageFont.load_default(pixels)
            assert isinstance(default, ImageFont.FreeTypeFont)
            self._fonts[key] = default
        return self._fonts[key]


def _dashes(points: Sequence[Point], pattern: Sequence[float]) -> Iterator[list[Point]]:
    """The strokes of a dashed line through `points`; `pattern` is stroke, gap, stroke, …"""
    index, left = 0, pattern[0]
    stroke: list[Point] = [points[0]] if points else []
    for (x1, y1), (x2, y2) in pairwise(points):
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        done = 0.0
        while length - done > left:
            done += left
            here = x1 + (x2 - x1) * done / length, y1 + (y2 - y1) * done / length
            if index % 2 == 0:
                yield [*stroke, here]
            index += 1
            stroke, left = [here], pattern[index % len(pattern)]
        left -= length - done
        stroke.append((x2, y2))
    if index % 2 == 0 and len(stroke) > 1:
        yield stroke
