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
from perdure.tracking.drawing import DOT_RADIUS, Curve, Drawing, Point, Rect, Segment, Text

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

SCALE = 2
"""Pixels of the file a unit of the drawing: sharp on dense screens and on slides."""
SMOOTH = 2
"""Lines are drawn this much larger and reduced, since Pillow's are jagged; cells need it not."""
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_OTHER_FONT = "DejaVuSans.ttf"


def to_png(drawing: Drawing) -> bytes:
    """The drawing on white as a PNG file, `SCALE` pixels a unit."""
    from PIL import Image, ImageDraw

    smooth = SMOOTH if any(isinstance(shape, Curve) for shape in drawing.shapes) else 1
    scale = SCALE * smooth
    size = round(drawing.width * scale), round(drawing.height * scale)
    image = Image.new("RGB", size, "white")
    canvas = _Canvas(image, ImageDraw.Draw(image), scale)
    for shape in drawing.shapes:
        if isinstance(shape, Rect):
            canvas.rect(shape)
        elif isinstance(shape, Segment):
            ends = [(shape.x1, shape.y1), (shape.x2, shape.y2)]
            canvas.line(ends, shape.color, 1.0, shape.dash)
        elif isinstance(shape, Curve):
            canvas.curve(shape)
        else:
            canvas.text(shape)
    if smooth > 1:
        image = image.reduce(smooth)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
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
            for x, y in piece if curve.dots else ():
                at = (self._scale * x, self._scale * y)
                self._pen.circle(at, self._scale * DOT_RADIUS, fill=curve.color)

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
