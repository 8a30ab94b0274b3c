"""Heatmaps as drawings: the accuracy matrix (a panel a scenario) and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from perdure.tracking.colors import (
    COLOR_SCALE,
    Theme,
    accuracy_color,
    between,
    hexadecimal,
    text_color,
)
from perdure.tracking.drawing import Drawing, Rect, Shape, Text, shifted, text_width
from perdure.tracking.formatting import percent

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
    title: str, panels: Mapping[str, Rows], names: Sequence[str], theme: Theme
) -> Drawing:
    """Accuracies as fractions, a panel a scenario beside each other: rows are after task i.

    Args:
        title: for those who do not see it.
        panels: by their own titles; a shorter row leaves cells empty, as None and NaN do.
        names: of the rows: the number of a task each, or `joint`.
        theme: its colors.
    """
    n_columns = max(len(row) for rows in panels.values() for row in rows)
    cell = _cell_size(n_columns)
    side = AXIS + text_width(max(names, key=len))
    top = MARGIN + AXIS
    shapes = [*shifted(_row_names(names, cell, side, theme), MARGIN + side, top)]
    right = MARGIN + side
    for name, rows in panels.items():
        shapes += shifted(_panel(name, rows, n_columns, cell, theme), right, top)
        right += max(n_columns * cell[0], text_width(max(name, COLUMNS, key=len))) + GAP
    right -= GAP
    height = max(map(len, panels.values())) * cell[1]
    if n_columns > MOST_WITH_NUMBERS:
        bar = _color_bar(theme, ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")))
        shapes += shifted(bar, right + GAP / 2, top)
        right += GAP / 2 + BAR_ROOM
        height = max(height, BAR_HEIGHT)
    return Drawing(right + MARGIN, top + height + 2 * AXIS + MARGIN / 2, title, tuple(shapes))


def _cell_size(n_columns: int) -> tuple[float, float]:
    """Width and height: wide enough for what it holds."""
    if n_columns <= MOST_WITH_DECIMALS:
        return 50.0, 36.0
    if n_columns <= MOST_WITH_NUMBERS:
        return 27.0, 22.0
    return (14.0, 14.0) if n_columns <= MOST_SMALL else (8.0, 8.0)


def _panel(
    name: str, rows: Rows, n_columns: int, cell: tuple[float, float], theme: Theme
) -> Iterator[Shape]:
    """Cells from (0, 0) on, the title above and the columns' names below them."""
    width, height = cell
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value is not None and math.isfinite(value):
                yield from _accuracy(value, j * width, i * height, cell, n_columns)
    yield Text(0, -10, name, theme.text)
    below = len(rows) * height
    for j in range(0, n_columns, _every(n_columns)):
        yield Text((j + 0.5) * width, below + 16, str(j), theme.muted, 11, "middle")
    narrow = n_columns * width < text_width(COLUMNS, 11)
    x, anchor = (0.0, "start") if narrow else (n_columns * width / 2, "middle")
    yield Text(x, below + 16 + AXIS, COLUMNS, theme.muted, 11, anchor)


def _accuracy(
    value: float, x: float, y: float, cell: tuple[float, float], n_columns: int
) -> Iterator[Shape]:
    width, height = cell
    color = accuracy_color(value)
    yield Rect(x, y, width - 1, height - 1, hexadecimal(color))
    if n_columns > MOST_WITH_NUMBERS:
        return
    decimals, size = (1, 12.0) if n_columns <= MOST_WITH_DECIMALS else (0, 11.0)
    at = x + (width - 1) / 2, y + (height - 1) / 2 + 0.36 * size
    yield Text(*at, percent(value, decimals), text_color(color), size, "middle")


def _every(n: int) -> int:
    """Of how many rows or columns one is named."""
    return 1 if n <= MOST_WITH_NUMBERS else 5 if n <= MOST_SMALL else 10


def _row_names(
    names: Sequence[str], cell: tuple[float, float], side: float, theme: Theme
) -> Iterator[Text]:
    for i in range(0, len(names), _every(len(names))):
        y = (i + 0.5) * cell[1] + 4
        yield Text(-7, y, names[i], theme.muted, 11, "end")
    if names[0] != "joint":
        middle = len(names) * cell[1] / 2
        yield Text(10 - side, middle, "after task", theme.muted, 11, "middle", turned=True)


_STEPS = 40
"""Colors that a color bar and a confusion matrix tell apart."""


def _color_bar(theme: Theme, ticks: Sequence[tuple[float, str]]) -> Iterator[Shape]:
    """What a color means, 1 at the top; `ticks` are positions on the scale and their names."""
    for step in range(_STEPS):
        color = hexadecimal(between(COLOR_SCALE, 1 - (step + 0.5) / _STEPS))
        yield Rect(0, step * BAR_HEIGHT / _STEPS, BAR_WIDTH, BAR_HEIGHT / _STEPS, color)
    for position, name in ticks:
        yield Text(BAR_WIDTH + 5, BAR_HEIGHT * (1 - position) + 4, name, theme.muted, 11)


def confusion_heatmap(
    title: str, names: Sequence[str], counts: Sequence[Sequence[int]], theme: Theme
) -> Drawing:
    """Shares of each true class's examples by predicted class; colors by the square root of it.

    The root makes rare confusions visible. Cells without an example stay empty.

    Args:
        title: for those who do not see it.
        names: of the classes, at most MOST_CLASSES.
        counts: [n, n], rows are true classes, columns predicted ones.
        theme: its colors.
    """
    cell, size = _class_size(len(names))
    side = len(names) * cell
    room = MARGIN + AXIS + text_width(max(names, key=len), size) + 8
    ticks = [(math.sqrt(share), f"{100 * share:g} %") for share in (0, 0.01, 0.05, 0.25, 0.5, 1)]
    middle = room + side / 2
    shapes = (
        *shifted(_confusions(names, counts, cell), room, room),
        *shifted(_class_names(names, cell, size, theme), room, room),
        Text(middle, MARGIN + 8, "predicted class", theme.muted, anchor="middle"),
        Text(MARGIN + 8, middle, "true class", theme.muted, anchor="middle", turned=True),
        *shifted(_color_bar(theme, ticks), room + side + GAP / 2, room),
    )
    width = room + side + GAP / 2 + BAR_ROOM
    return Drawing(width, room + max(side, BAR_HEIGHT) + MARGIN, title, shapes)


def _class_size(n_classes: int) -> tuple[float, float]:
    """Of a cell, and of the letters of a class's name beside it."""
    if n_classes <= MOST_WITH_SHARES:
        return 34.0, 11.0
    return (16.0, 9.5) if n_classes <= 50 else (10.0, 8.5)


def _confusions(
    names: Sequence[str], counts: Sequence[Sequence[int]], cell: float
) -> Iterator[Shape]:
    """The cells, those of one color one after another, so that SVG holds them as one path."""
    n = len(names)
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
            cells.append((fill, Rect(j * cell, i * cell, cell - 1, cell - 1, fill, shown)))
            if n <= MOST_WITH_SHARES and share > 0.005:
                at = (j + 0.5) * cell - 0.5, (i + 0.5) * cell + 3.5
                texts.append(Text(*at, percent(share, 0), text_color(color), 10.5, "middle"))
    yield from (rect for _, rect in sorted(cells, key=lambda cell: cell[0]))
    yield from texts


def _class_names(names: Sequence[str], cell: float, size: float, theme: Theme) -> Iterator[Text]:
    """Beside the rows, and above the columns, turned where they are wider than those."""
    turned = text_width(max(names, key=len), size) > cell
    for index, name in enumerate(names):
        middle = (index + 0.5) * cell
        low = middle + 0.34 * size
        yield Text(-5, low, name, theme.text, size, "end")
        if turned:
            yield Text(low, -5, name, theme.text, size, turned=True)
        else:
            yield Text(middle, -5, name, theme.text, size, "middle")
