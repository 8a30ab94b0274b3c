"""SVG that any reader takes, whatever the names; PNG with the same shapes; PDF with its fonts."""

from __future__ import annotations

import io
import math
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from perdure.errors import UserError
from perdure.tracking.drawing import (
    SYMBOLS,
    Area,
    Curve,
    Drawing,
    Marks,
    Point,
    Rect,
    Segment,
    Text,
    outline,
    shifted,
    to_svg,
)
from perdure.tracking.pdf import to_pdf
from perdure.tracking.raster import SCALE, _dashes, to_png

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</text><script>alert("1")</script>&\'\x00\u202e$\\frac{1}$_$'


def drawing(*shapes: Any, title: str = "a figure") -> Drawing:
    return Drawing(100, 60, title, tuple(shapes))


EVERYTHING = drawing(
    Rect(10, 10, 20, 10, "#134a6b"),
    Rect(30, 10, 20, 10, "#134a6b"),
    Rect(60, 10, 20, 10, "#ff0000", hint="a hint"),
    Segment(0, 30, 100, 30, "#00ff00", dash="3 4", kind="grid"),
    Curve([(0, 40), (50, 50), None, (60, 40), (100, 50)], "#0000ff", dash="7 3"),
    Marks([(0, 40), (50, 50), (60, 40), (100, 50)], "#0000ff"),
    Area([(80, 2), (98, 2), (98, 8), (80, 8)], "#ff0000", 0.5),
    Marks([(70, 50)], "#008800", "square", 4),
    Marks([(85, 50)], "#008800", "diamond", 4, hollow=True),
    Text(50, 58, "below", "#000000", anchor="middle", kind="name"),
    Text(8, 55, "turned", "#000000", 8, turned=True, bold=True),
)


def test_svg_has_each_shape_once() -> None:
    root = ET.fromstring(to_svg(EVERYTHING))
    assert (root.get("width"), root.get("viewBox")) == ("100", "0 0 100 60")
    assert [text.text for text in root.iter(f"{SVG}title")] == ["a figure", "a hint", None][:2]
    # Rectangles of one color side by side are one path.
    cells, area = root.findall(f"{SVG}path")
    assert (area.get("d"), area.get("fill-opacity")) == ("M80 2 L98 2 L98 8 L80 8z", "0.5")
    assert (cells.get("d"), cells.get("fill")) == (
        "M10 10h20v10h-20zM30 10h20v10h-20z", "#134a6b",
    )  # fmt: skip
    assert len(root.findall(f".//{SVG}circle")) == 4
    curve = root.find(f"{SVG}g/{SVG}path")
    assert curve is not None
    assert curve.get("d") == "M0 40 L50 50 M60 40 L100 50"
    texts = root.findall(f"{SVG}text")
    assert [(t.text, t.get("class"), t.get("transform")) for t in texts] == [
        ("below", "name", None), ("turned", None, "rotate(-90 8 55)"),
    ]  # fmt: skip


def test_inline_svg_takes_size_and_font_from_its_page() -> None:
    svg = to_svg(EVERYTHING, inline=True)
    (start,) = re.findall("<svg[^>]*>", svg)
    assert start == '<svg viewBox="0 0 100 60" role="img" aria-label="a figure">'
    assert re.findall(r'font-size="([^"]+)"', svg) == ["0.67em"]


@given(st.text(max_size=20))
def test_any_text_is_text(text: str) -> None:
    hinted = Curve([(0, 0)], "#000000", hint=text)
    figure = drawing(Text(1, 1, text, "#000000"), Rect(0, 0, 1, 1, "#ffffff", text), hinted,
                     title=text)  # fmt: skip
    for svg in (to_svg(figure), to_svg(figure, inline=True)):
        root = ET.fromstring(svg)
        assert not {"script", f"{SVG}script"} & {element.tag for element in root.iter()}


def test_png_has_the_colors_where_the_shapes_are() -> None:
    image = Image.open(io.BytesIO(to_png(EVERYTHING))).convert("RGB")
    assert image.size == (100 * SCALE, 60 * SCALE)

    def color(x: float, y: float) -> Any:
        return image.getpixel((round(SCALE * x), round(SCALE * y)))

    assert color(20, 15) == color(40, 15) == (0x13, 0x4A, 0x6B)
    assert color(70, 15) == (255, 0, 0)
    assert color(5, 5) == (255, 255, 255)
    assert color(55, 45) == (255, 255, 255)  # the gap of the curve
    assert color(60, 40) == (0, 0, 255)  # a dot
    assert color(90, 5) == (255, 127, 127)  # half of the area's red, on white
    assert color(70, 50) == (0, 0x88, 0)
    assert color(85, 50) == (255, 255, 255)  # within an outline
    assert color(85 + 1.3 * 4 - 0.5, 50) != (255, 255, 255)


def test_a_figure_for_print_has_its_size_on_paper() -> None:
    figure = replace(EVERYTHING, width=72, printed=True)
    assert ET.fromstring(to_svg(figure)).get("width") == "72pt"
    image = Image.open(io.BytesIO(to_png(figure)))
    assert image.width / image.info["dpi"][0] == pytest.approx(1, abs=0.01)  # inch
    assert image.info["dpi"][0] > 280


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_lies_around_its_point_and_is_as_large_as_the_others(symbol: str) -> None:
    corners = outline(symbol, (10, 20), 4)
    if symbol == "circle":
        assert corners == []
        return
    xs, ys = zip(*corners, strict=True)
    assert (min(xs) + max(xs)) / 2 == pytest.approx(10)
    assert min(ys) < 20 < max(ys)
    assert 7 < max(xs) - min(xs) < 11


def test_shapes_move_together() -> None:
    moved = list(shifted(EVERYTHING.shapes, 100, 7))
    for before, after in zip(EVERYTHING.shapes, moved, strict=True):
        if isinstance(before, Area | Marks):
            assert isinstance(after, Area | Marks)
            assert after.points == [(x + 100, y + 7) for x, y in before.points]


@pytest.mark.parametrize(
    ("anchor", "above"), [("start", 1.0), ("middle", 0.5), ("end", 0.0)], ids=str
)
def test_a_turned_text_reads_from_below(anchor: str, above: float) -> None:
    """Its letters stand left of its baseline, which is vertical."""
    png = to_png(drawing(Text(40, 30, "HEIGHT", "#000000", 10, anchor, turned=True)))
    ink = ImageOps.invert(Image.open(io.BytesIO(png)).convert("L")).getbbox()
    assert ink is not None
    left, top, right, bottom = (edge / SCALE for edge in ink)
    length = bottom - top
    assert 25 < length < 45
    assert right == pytest.approx(40, abs=1)
    assert right - left == pytest.approx(7, abs=1.5)
    assert bottom == pytest.approx(30 + length * (1 - above), abs=1.5)


def test_png_of_a_name_beyond_ascii() -> None:
    plain = drawing(Text(0, 30, "cafe", "#000000"))
    accented = drawing(Text(0, 30, "café", "#000000"))
    assert to_png(plain) != to_png(accented)


POINTS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8)


@given(POINTS, st.lists(st.floats(1, 20), min_size=2, max_size=4).filter(lambda p: len(p) != 3))
def test_dashes_are_as_long_as_the_pattern_says(
    points: list[Point], pattern: Sequence[float]
) -> None:
    total = sum(map(math.dist, points, points[1:]))
    expected, at = 0.0, 0.0
    for index in range(10_000):
        end = min(at + pattern[index % len(pattern)], total)
        expected += (end - at) * (index % 2 == 0)
        at = end
        if at >= total:
            break
    drawn = sum(sum(map(math.dist, s, s[1:])) for s in _dashes(points, pattern))
    assert drawn == pytest.approx(expected, abs=1e-6)


def test_a_pdf_has_its_fonts_and_is_the_same_each_time() -> None:
    pytest.importorskip("matplotlib")
    hostile = drawing(*EVERYTHING.shapes, Text(1, 20, HOSTILE, "#000000"), title=HOSTILE)
    pdf = to_pdf(hostile)
    assert pdf.startswith(b"%PDF-")
    assert b"/MediaBox [ 0 0 100 60 ]" in pdf
    assert pdf.count(b"/FontFile2") == pdf.count(b"/ToUnicode") == 2  # regular and bold, as text
    assert b"/Type3" not in pdf
    assert pdf == to_pdf(hostile)


def test_without_matplotlib_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'perdure\[paper\]'"):
        to_pdf(EVERYTHING)
