"""Figures of many runs: accuracy over tasks with bands, retention, forgetting, confusion matrices.

Each figure is one function from groups of runs to plots: a drawing, and the numbers that it shows
as CSV. A line is a group's mean, its band ± one standard deviation over the group's runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from perdure.analysis import curves
from perdure.analysis.curves import Group, Matrix, Row, Spread
from perdure.analysis.pareto import COSTS, pareto_chart, points_of
from perdure.analysis.strips import strip_chart
from perdure.tracking.charts import (
    UNNAMED,
    Axis,
    Frame,
    Line,
    line_chart,
    snug_axis,
    task_ticks,
    with_legend,
    with_note,
    with_y_name,
)
from perdure.tracking.classes import Confusion, confusion_of
from perdure.tracking.colors import PAPER, Theme
from perdure.tracking.drawing import DASHES, SYMBOLS, Drawing
from perdure.tracking.formatting import scenario_name
from perdure.tracking.heatmaps import MOST_CLASSES, confusion_heatmap
from perdure.tracking.tables import csv_text

MOST_WITH_SYMBOLS = 25
"""Tasks up to which each point of a line has a symbol."""


class View(NamedTuple):
    """What is drawn, and how.

    Attributes:
        groups: the lines.
        scenario: which accuracy: class_il, task_il or domain_il.
        theme: the colors.
        frame: the size.
    """

    groups: Sequence[Group]
    scenario: str
    theme: Theme = PAPER
    frame: Frame = UNNAMED


class Plot(NamedTuple):
    """A figure: the name of its files, a caption, the drawing, its numbers as CSV."""

    name: str
    caption: str
    drawing: Drawing
    table: str


def accuracy(view: View) -> Iterator[Plot]:
    """Average accuracy on the tasks seen, after each task; a joint run is a level line."""
    found = [(g, _curve(g, view.scenario)) for g in view.groups]
    n_tasks = max((len(s) for g, s in found if not g.is_joint), default=0)
    if n_tasks < 2:
        return
    level = [(g, s * n_tasks if g.is_joint else s) for g, s in found if s]
    name = f"average accuracy, {scenario_name(view.scenario)} (%)"
    drawing = _lines(view, level, name, "after task", (0.0, 100.0))
    caption = f"average accuracy on the tasks seen, {scenario_name(view.scenario)}"
    yield Plot(f"accuracy_{view.scenario}", caption, drawing, _table("after_task", level))


def _curve(group: Group, scenario: str) -> list[Spread | None]:
    return curves.spreads(group, scenario, curves.average_accuracy)


def retention(view: View) -> Iterator[Plot]:
    """Each task's accuracy at the end, as a share of that just after it was trained."""
    name = f"accuracy kept, {scenario_name(view.scenario)} (%)"
    caption = f"share of each task's accuracy that is kept to the end, {_of(view)}"
    yield from _by_task(view, "retention", curves.retention, name, caption, 0.0)


def forgetting(view: View) -> Iterator[Plot]:
    """Each task's best accuracy before the end less that at the end, in percentage points."""
    name = f"forgetting, {scenario_name(view.scenario)} (points)"
    caption = f"forgetting of each task at the end, {_of(view)}"
    yield from _by_task(view, "forgetting", curves.forgetting, name, caption, -math.inf)


def _of(view: View) -> str:
    return scenario_name(view.scenario)


def _by_task(
    view: View,
    figure: str,
    curve: Callable[[Matrix], Row],
    name: str,
    caption: str,
    lowest: float,
) -> Iterator[Plot]:
    found = [(g, curves.spreads(g, view.scenario, curve)) for g in view.groups if not g.is_joint]
    found = [(g, s) for g, s in found if any(s)]
    if found:
        drawing = _lines(view, found, name, "task", (lowest, math.inf), lowest < 0)
        yield Plot(f"{figure}_{view.scenario}", caption, drawing, _table("task", found))


def _lines(
    view: View,
    found: Sequence[tuple[Group, Sequence[Spread | None]]],
    name: str,
    x_name: str,
    within: tuple[float, float],
    zero: bool = False,
) -> Drawing:
    """A chart of groups' means with bands, in percent, below a legend; `zero` is on the axis."""
    theme, frame = view.theme, view.frame
    n = max(len(at) for _, at in found)
    lines = [
        _line(view, view.groups.index(group), group, at, n <= MOST_WITH_SYMBOLS)
        for group, at in found
    ]
    edges = [
        100 * (s.mean + sign * (s.std or 0.0))
        for _, at in found for s in at if s is not None for sign in (-1, 1)
    ]  # fmt: skip
    # A band may leave what is possible; the axis does not.
    low, high = max(min(edges), within[0]), min(max(edges), within[1])
    y = snug_axis(name, min(low, 0.0) if zero else low, high)
    x = Axis(x_name, -0.02 * (n - 1), (n - 1) * 1.02 or 1.0, task_ticks(n))
    unnamed = [replace(line, name="", hint=line.name) for line in lines]
    chart = line_chart(name, unnamed, x, y, theme, frame=frame.beside_name)
    return framed(chart, lines, name, _note(view.groups, "bands"), theme, frame)


def framed(
    chart: Drawing, lines: Sequence[Line], name: str, note: str, theme: Theme, frame: Frame
) -> Drawing:
    """The chart with the y axis named, a legend above and a note below."""
    named = with_y_name(chart, name, theme, frame)
    return with_note(with_legend(named, lines, theme, frame), note, theme, frame)


def _note(groups: Sequence[Group], what: str) -> str:
    repeated = curves.repeats(groups)
    return f"{what}: ± 1 standard deviation over {repeated}" if repeated else ""


def _line(view: View, index: int, group: Group, at: Sequence[Spread | None], symbols: bool) -> Line:
    return Line(
        group.name,
        range(len(at)),
        [None if s is None else 100 * s.mean for s in at],
        view.theme.group(index),
        symbol=SYMBOLS[index % len(SYMBOLS)] if symbols and not group.is_joint else "",
        dash=DASHES[index % len(DASHES)],
        spread=[None if s is None else 100 * (s.std or 0.0) for s in at],
    )


def _table(x: str, found: Sequence[tuple[Group, Sequence[Spread | None]]]) -> str:
    rows = (
        [group.name, at, s.n, s.mean, "" if s.std is None else s.std]
        for group, spreads in found
        for at, s in enumerate(spreads)
        if s is not None
    )
    return csv_text(["group", x, "runs", "mean", "std"], rows)


def pareto(view: View) -> Iterator[Plot]:
    """Average accuracy at the end against each cost, with the Pareto front."""
    for cost in COSTS:
        points = points_of(view.groups, view.scenario, cost)
        if len(points) < 2 or len({point.cost.mean for point in points}) < 2:
            continue
        index = {id(group): i for i, group in enumerate(view.groups)}
        chart, lines = pareto_chart(points, cost, view.theme, view.frame.beside_name, index)
        name = f"average accuracy, {scenario_name(view.scenario)} (%)"
        bars = _note(view.groups, "bars")
        note = f"filled, dotted line: Pareto front{f'; {bars}' if bars else ''}"
        drawing = framed(chart, lines, name, note, view.theme, view.frame)
        caption = f"average accuracy against {cost.title}, {scenario_name(view.scenario)}"
        table = csv_text(
            ["group", "runs", f"{cost.name}_mean", f"{cost.name}_std", "accuracy_mean",
             "accuracy_std", "on_front"],
            ([p.group.name, p.accuracy.n, p.cost.mean, p.cost.std, p.accuracy.mean,
              p.accuracy.std, int(p.on_front)] for p in points),
        )  # fmt: skip
        yield Plot(f"pareto_{cost.name}_{view.scenario}", caption, drawing, table)


def orders(view: View) -> Iterator[Plot]:
    """Average accuracy at the end of each class order: every value, and a box, a group."""
    found = [(g, curves.by_order(g, view.scenario)) for g in view.groups]
    found = [(group, values) for group, values in found if values]
    if max((len(values) for _, values in found), default=0) < 2:
        return
    name = f"average accuracy, {scenario_name(view.scenario)} (%)"
    colors = [view.theme.group(view.groups.index(group)) for group, _ in found]
    rows = [(g.name, [100 * v for v in values]) for g, values in found]
    drawing = strip_chart(name, rows, colors, view.theme, view.frame)
    drawing = with_note(drawing, "a point is a class order; box: quartiles and median",
                        view.theme, view.frame)  # fmt: skip
    caption = f"average accuracy over class orders, {scenario_name(view.scenario)}"
    table = csv_text(
        ["group", "accuracy"], ([group.name, v] for group, values in found for v in values)
    )
    yield Plot(f"orders_{view.scenario}", caption, drawing, table)


def confusion(view: View) -> Iterator[Plot]:
    """Of each group the confusion matrix of all its runs together, after the last task."""
    if view.scenario == "task_il":
        return  # the classes are counted among all of them, as in class-IL
    for index, group in enumerate(view.groups):
        found = [c for run in group.runs if (c := _confusion(run.results)) is not None]
        found = [c for c in found if c.names == found[0].names]
        if not found or not 0 < len(found[0].names) <= MOST_CLASSES:
            continue
        names = found[0].names
        n = range(len(names))
        counts = [[sum(c.counts[i][j] for c in found) for j in n] for i in n]
        title = f"confusion matrix: {group.name}"
        drawing = confusion_heatmap(title, names, counts, view.theme, view.frame)
        more = f" ({len(found)} runs together)" if len(found) > 1 else ""
        table = csv_text(
            ["group", "true", "predicted", "count"],
            ([group.name, names[i], names[j], counts[i][j]] for i in n for j in n),
        )
        yield Plot(f"confusion_{index}", f"{title}{more}", drawing, table)


def _confusion(results: Mapping[str, Any]) -> Confusion | None:
    """The counts of a run; None where they are none."""
    try:
        found = confusion_of(results)
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
    return found if found and all(c >= 0 for row in found.counts for c in row) else None


FIGURES: dict[str, Callable[[View], Iterator[Plot]]] = {
    "accuracy": accuracy,
    "retention": retention,
    "forgetting": forgetting,
    "pareto": pareto,
    "confusion": confusion,
    "orders": orders,
}
"""By their names in `perdure plot`."""
