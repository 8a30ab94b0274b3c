"""Heatmaps as drawings: the accuracy matrix (a panel a scenario) and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from perdure.tracking.charts import SCREEN, Frame
from perdure.tracking.colors import (
    COLOR_SCALE,
    Theme,
    accuracy_color,
    between,
    hexadecimal,
    text_color,
)
from perdure.tracking.drawing import (
    EM,
    Drawing,
    Rect,
    Shape,
    Text,
    shifted,
    shortened,
    text_width,
)
from perdure.tracking.formatting import percent

LARGE, SMALL = EM, 11.0
"""Sizes of letters in cells and beside them, on a page."""
LEAST_FOR_TWO = 300.0
"""Units of width from which two panels stand beside each other in print."""
MARGIN, GAP, AXIS = 14.0, 34.0, 22.0
"""Units around a figure, between two panels, and for the names along an axis."""
COLUMNS = "accuracy (%) on task"
BAR_HEIGHT, BAR_WIDTH, BAR_ROOM = 120.0, 12.0, 60.0
"""Of a color bar; its room has the names of its ticks too."""
MOST_WITH_DECIMALS, MOST_WITH_NUMBERS, MOST_SMALL = 12, 25, 60
"""Columns up to which cells hold `87.0`, then `87`; beyond the second a color bar explains them,
and beyond the third the cells are as small as they get."""
MOST_CLASSES = 100
"""Classes of a confusion matrix that is drawn; more would have no readable names."""
MOST_WITH_SHARES, MOST_WITH_HINTS = 20, 30
"""Classes up to which a cell of it shows its percentage, and says what it is under the pointer."""

Rows = Sequence[Sequence[float | None]]


def accuracy_heatmap(
    title: str,
    panels: Mapping[str, Rows],
    names: Sequence[str],
    theme: Theme,
    frame: Frame = SCREEN,
) -> Drawing:
    """Accuracies as fractions, a panel a scenario: rows are after task i.

    On a page the panels stand beside each other and cells are as large as their numbers need; for
    print they fit the frame's width, below each other in a column.

    Args:
        title: for those who do not see it.
        panels: by their own titles; a shorter row leaves cells empty, as None and NaN do.
        names: of the rows: the number of a task each, or `joint`.
        theme: its colors.
        frame: its size.
    """
    n_columns = max(len(row) for rows in panels.values() for row in rows)
    scale, size = frame.scale, SMALL * frame.scale
    side = AXIS * scale + text_width(max(names, key=len), frame.text)
    stacked = frame.printed and frame.width < LEAST_FOR_TWO
    across = 1 if stacked else len(panels)
    cell = _cell_size(n_columns)
    if frame.printed:
        room = frame.width - side - (2 * MARGIN + GAP * across + BAR_ROOM) * scale
        width = max(min(room / across / n_columns, 36.0), 0.5)
        cell = width, width if n_columns > MOST_WITH_DECIMALS else min(width, 20.0)
    shown = Cells(*cell, size, cell_decimals(cell[0], LARGE * scale), n_columns)
    margin, top = MARGIN * scale, (MARGIN + AXIS) * scale
    step = max(map(len, panels.values())) * cell[1] + (2 * AXIS + GAP) * scale
    shapes: list[Shape] = []
    right, down, widest = margin + side, top, 0.0
    for index, (name, rows) in enumerate(panels.items()):
        if stacked or not index:
            shapes += shifted(_row_names(names, shown, side, theme), margin + side, down)
        shapes += shifted(_panel(name, rows, shown, theme, frame), right, down)
        needs = text_width(name, frame.text), text_width(COLUMNS, size)
        occupied = max(n_columns * cell[0], *needs)
        widest = max(widest, right + occupied)
        if stacked:
            down += step
        else:
            right += occupied + GAP * scale
    height = max(map(len, panels.values())) * cell[1]
    if shown.decimals is None:
        bar = _color_bar(theme, ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")), size)
        shapes += shifted(bar, widest + GAP / 2 * scale, top)
        widest += GAP / 2 * scale + BAR_ROOM * scale
        height = max(height, BAR_HEIGHT * size / SMALL)
    last = down - step if stacked else top
    bottom = last + height + (2 * AXIS + MARGIN / 2) * scale
    return Drawing(widest + margin, bottom, title, tuple(shapes), frame.printed)


@dataclass(frozen=True)
class Cells:
    """Their size, that of letters beside them, and the decimals in them (None: no numbers)."""

    width: float
    height: float
    size: float
    decimals: int | None
    n: int

    @property
    def gap(self) -> float:
        """Between two cells."""
        return _gap(self.width)


def _gap(cell: float) -> float:
    """Between two cells: a unit, less where they are small, none that pixels would make uneven."""
    return 0.0 if cell < 4 else min(1.0, 0.1 * cell)


def cell_decimals(width: float, size: float) -> int | None:
    """With how many decimals a percentage fits a cell: 1, 0, or None where it does not at all."""
    if text_width("100.0", size) <= width - 5:
        return 1
    return 0 if text_width("100", 0.92 * size) <= width - 5 else None


def _cell_size(n_columns: int) -> tuple[float, float]:
    """Width and height: wide enough for what it holds."""
    if n_columns <= MOST_WITH_DECIMALS:
        return 50.0, 36.0
    if n_columns <= MOST_WITH_NUMBERS:
        return 27.0, 22.0
    return (14.0, 14.0) if n_columns <= MOST_SMALL else (8.0, 8.0)


def _panel(name: str, rows: Rows, cells: Cells, theme: Theme, frame: Frame) -> Iterator[Shape]:
    """Cells from (0, 0) on, the title above and the columns' names below them."""
    scale, size = frame.scale, cells.size
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value is not None and math.isfinite(value):
                yield from _accuracy(value, j * cells.width, i * cells.height, cells, scale)
    yield Text(0, -10 * scale, name, theme.text, frame.text)
    below = len(rows) * cells.height
    for j in range(0, cells.n, _every(cells.n, cells.width, size)):
        at = (j + 0.5) * cells.width
        yield Text(at, below + 16 * scale, str(j), theme.muted, size, "middle")
    narrow = cells.n * cells.width < text_width(COLUMNS, size)
    x, anchor = (0.0, "start") if narrow else (cells.n * cells.width / 2, "middle")
    yield Text(x, below + (16 + AXIS) * scale, COLUMNS, theme.muted, size, anchor)


def _accuracy(value: float, x: float, y: float, cells: Cells, scale: float) -> Iterator[Shape]:
    width, height = cells.width - cells.gap, cells.height - cells.gap
    color = accuracy_color(value)
    yield Rect(x, y, width, height, hexadecimal(color))
    if cells.decimals is None:
        return
    size = (LARGE if cells.decimals else SMALL) * scale
    at = x + width / 2, y + height / 2 + 0.36 * size
    yield Text(*at, percent(value, cells.decimals), text_color(color), size, "middle")


def _every(n: int, width: float, size: float) -> int:
    """Of how many rows or columns one is named."""
    need = text_width(str(n), size) + 2
    return next(every for every in (1, 5, 10, 20, 50, n + 1) if every * width >= need or every > n)


def _row_names(names: Sequence[str], cells: Cells, side: float, theme: Theme) -> Iterator[Text]:
    size = cells.size
    for i in range(0, len(names), _every(len(names), cells.height, size)):
        y = (i + 0.5) * cells.height + size / 3
        yield Text(-0.6 * size, y, names[i], theme.muted, size, "end")
    if names[0] != "joint":
        middle = len(names) * cells.height / 2
        yield Text(0.9 * size - side, middle, "after task", theme.muted, size, "middle",
                   turned=True)  # fmt: skip


_STEPS = 40
"""Colors that a color bar and a confusion matrix tell apart."""


def _color_bar(theme: Theme, ticks: Sequence[tuple[float, str]], size: float) -> Iterator[Shape]:
    """What a color means, 1 at the top; `ticks` are positions on the scale and their names."""
    scale = size / SMALL
    height, width = BAR_HEIGHT * scale, BAR_WIDTH * scale
    for step in range(_STEPS):
        color = hexadecimal(between(COLOR_SCALE, 1 - (step + 0.5) / _STEPS))
        yield Rect(0, step * height / _STEPS, width, height / _STEPS, color)
    for position, name in ticks:
        yield Text(width + 5 * scale, height * (1 - position) + size / 3, name, theme.muted, size)


def confusion_heatmap(
    title: str,
    names: Sequence[str],
    counts: Sequence[Sequence[int]],
    theme: Theme,
    frame: Frame = SCREEN,
) -> Drawing:
    """Shares of each true class's examples by predicted class; colors by the square root of it.

    The root makes rare confusions visible. Cells without an example stay empty. On a page every
    class has its name; for print the matrix fits the frame, and names that would lie on each other
    are left out.

    Args:
        title: for those who do not see it.
        names: of the classes, at most MOST_CLASSES.
        counts: [n, n], rows are true classes, columns predicted ones.
        theme: its colors.
        frame: its size.
    """
    cell, size = _class_size(len(names))
    scale, axis = frame.scale, EM * frame.scale
    longest = max(names, key=len)
    most = math.inf
    if frame.printed:
        size, most = SMALL * scale, 0.25 * frame.width
    room = (MARGIN + AXIS) * scale + min(text_width(longest, size), most) + 8 * scale
    if frame.printed:
        left = frame.width - room - (GAP / 2 + BAR_ROOM) * scale
        cell = min(left / len(names), 30.0)
    side = len(names) * cell
    ticks = [(math.sqrt(share), f"{100 * share:g} %") for share in (0, 0.01, 0.05, 0.25, 0.5, 1)]
    middle, edge = room + side / 2, (MARGIN + 8) * scale
    bar = _color_bar(theme, ticks, SMALL * scale)
    labels = [shortened(name, most, size) for name in names]
    shapes = (
        *shifted(_confusions(names, counts, cell, scale), room, room),
        *shifted(_class_names(labels, cell, size, theme), room, room),
        Text(middle, edge, "predicted class", theme.muted, axis, anchor="middle"),
        Text(edge, middle, "true class", theme.muted, axis, anchor="middle", turned=True),
        *shifted(bar, room + side + GAP / 2 * scale, room),
    )
    width = room + side + (GAP / 2 + BAR_ROOM) * scale
    height = room + max(side, BAR_HEIGHT * scale) + MARGIN * scale
    return Drawing(width, height, title, shapes, frame.printed)


def _class_size(n_classes: int) -> tuple[float, float]:
    """Of a cell, and of the letters of a class's name beside it."""
    if n_classes <= MOST_WITH_SHARES:
        return 34.0, 11.0
    return (16.0, 9.5) if n_classes <= 50 else (10.0, 8.5)


def _confusions(
    names: Sequence[str], counts: Sequence[Sequence[int]], cell: float, scale: float
) -> Iterator[Shape]:
    """The cells, those of one color one after another, so that SVG holds them as one path."""
    n, gap, size = len(names), _gap(cell), 10.5 * scale
    has_shares = n <= MOST_WITH_SHARES and text_width("100", size) <= cell
    cells: list[tuple[str, Rect]] = []
    texts: list[Shape] = []
    for i, row in enumerate(counts):
        total = sum(row)
        for j, count in enumerate(row):
            if not count:
                continue
            share = count / total
            color = between(COLOR_SCALE, round(_STEPS * math.sqrt(share)) / _STEPS)
            hint = f"{names[i]} as {names[j]}: {count:,} of {total:,} ({percent(share, 1)} %)"
            shown = hint if n <= MOST_WITH_HINTS else ""
            fill = hexadecimal(color)
            cells.append((fill, Rect(j * cell, i * cell, cell - gap, cell - gap, fill, shown)))
            if has_shares and share > 0.005:
                at = (j + 0.5) * cell - gap / 2, (i + 0.5) * cell + size / 3
                texts.append(Text(*at, percent(share, 0), text_color(color), size, "middle"))
    yield from (rect for _, rect in sorted(cells, key=lambda cell: cell[0]))
    yield from texts


def _class_names(names: Sequence[str], cell: float, size: float, theme: Theme) -> Iterator[Text]:
    """Beside the rows, and above the columns, turned where they are wider than those."""
    turned = text_width(max(names, key=len), size) > cell
    every = 1 if cell >= size else next(n for n in (2, 5, 10, 20, 50) if n * cell >= size)
    for index in range(0, len(names), every):
        name, middle = names[index], (index + 0.5) * cell
        low = middle + 0.34 * size
        yield Text(-5, low, name, theme.text, size, "end")
        if turned:
            yield Text(low, -5, name, theme.text, size, turned=True)
        else:
            yield Text(middle, -5, name, theme.text, size, "middle")
