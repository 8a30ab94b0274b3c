"""PDF of a drawing, with matplotlib, for papers: fonts are embedded, text stays text.

No run imports this: matplotlib takes half a second to import, and is in the extra `paper`.
"""

from __future__ import annotations

import io
from itertools import groupby
from typing import TYPE_CHECKING, Any

from perdure.errors import UserError, printable
from perdure.tracking.drawing import (
    Area,
    Curve,
    Drawing,
    Marks,
    Rect,
    Segment,
    Shape,
    Text,
    outline,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 72.0
"""Points an inch; a unit of the drawing is a point."""
_ALIGNMENT = {"start": "left", "middle": "center", "end": "right"}


def to_pdf(drawing: Drawing) -> bytes:
    """The drawing as a PDF file of one page; the same drawing gives the same bytes.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "--format=pdf: needs matplotlib: pip install 'perdure[paper]'; --format=svg does not"
        ) from None
    file = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}):
        figure = Figure((drawing.width / POINTS, drawing.height / POINTS))
        FigureCanvasPdf(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, drawing.width)
        axes.set_ylim(drawing.height, 0)
        for is_rect, shapes in groupby(drawing.shapes, lambda shape: isinstance(shape, Rect)):
            if is_rect:
                _rects(axes, [shape for shape in shapes if isinstance(shape, Rect)])
            else:
                for shape in shapes:
                    _draw(axes, shape)
        title = printable(drawing.title)
        figure.savefig(file, format="pdf", metadata={"Title": title, "CreationDate": None})
    return file.getvalue()


def _rects(axes: Axes, rects: list[Rect]) -> None:
    from matplotlib.collections import PolyCollection

    corners = [
        [(r.x, r.y), (r.x + r.width, r.y), (r.x + r.width, r.y + r.height), (r.x, r.y + r.height)]
        for r in rects
    ]
    cells = PolyCollection(corners, facecolors=[r.color for r in rects], linewidths=0)
    axes.add_collection(cells, autolim=False)


def _draw(axes: Axes, shape: Shape) -> None:
    if isinstance(shape, Segment):
        ends = [(shape.x1, shape.y1), (shape.x2, shape.y2)]
        _curve(axes, Curve(ends, shape.color, shape.width, shape.dash))
    elif isinstance(shape, Curve):
        _curve(axes, shape)
    elif isinstance(shape, Area):
        xs, ys = zip(*shape.points, strict=True)
        axes.fill(xs, ys, color=shape.color, alpha=shape.opacity, linewidth=0)
    elif isinstance(shape, Marks):
        _marks(axes, shape)
    elif isinstance(shape, Text):
        axes.text(
            shape.x, shape.y, printable(shape.text), color=shape.color, fontsize=shape.size,
            ha=_ALIGNMENT[shape.anchor] if not shape.turned else "right",
            va="baseline" if not shape.turned else _VERTICAL[shape.anchor],
            rotation=90 if shape.turned else 0, rotation_mode="default",
            fontweight="bold" if shape.bold else "normal", parse_math=False,
        )  # fmt: skip


def _marks(axes: Axes, marks: Marks) -> None:
    style: dict[str, Any] = {
        "facecolor": "none" if marks.hollow else marks.color,
        "edgecolor": marks.color,
        "linewidth": 1.2 if marks.hollow else 0,
    }
    from matplotlib.patches import Circle, Polygon

    for point in marks.points:
        corners = outline(marks.symbol, point, marks.radius)
        axes.add_patch(
            Polygon(corners, **style) if corners else Circle(point, marks.radius, **style)
        )


_VERTICAL = {"start": "bottom", "middle": "center", "end": "top"}


def _curve(axes: Axes, curve: Curve) -> None:
    dashes = [float(part) / curve.width for part in curve.dash.split()]
    for piece in curve.pieces():
        xs, ys = zip(*piece, strict=True)
        (line,) = axes.plot(xs, ys, color=curve.color, linewidth=curve.width)
        if dashes:
            line.set_linestyle((0, tuple(dashes)))
