"""Accuracy against what it costs (bytes of exemplars, FLOPs, seconds), and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from perdure.analysis.curves import Group, Spread, final_accuracy, metric
from perdure.tracking.charts import Axis, Frame, Line, axes, nice_axis, scaled_dash, snug_axis
from perdure.tracking.colors import Theme
from perdure.tracking.drawing import DOT_RADIUS, SYMBOLS, Curve, Drawing, Marks, Shape

LOG_FROM = 20.0
"""Ratio of the largest cost to the smallest from which the axis is logarithmic."""


class Cost(NamedTuple):
    """What is paid.

    Attributes:
        name: in the names of files and columns.
        metric: its key in `Run.metrics`.
        title: for people.
        units: name → how many of the metric's unit it is, ascending.
    """

    name: str
    metric: str
    title: str
    units: Mapping[str, float]


_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}
COSTS = (
    Cost("bytes", "cost.exemplar_bytes", "bytes of exemplars", _BYTES),
    Cost("flops", "cost.flops", "operations of training",
         {"MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15}),
    Cost("seconds", "cost.seconds", "time", {"s": 1.0, "min": 60.0, "h": 3600.0}),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A group: what it costs and reaches; `on_front` where no other costs no more for as much."""

    group: Group
    cost: Spread
    accuracy: Spread
    on_front: bool


def points_of(groups: Sequence[Group], scenario: str, cost: Cost) -> list[Point]:
    """The groups of which both are known, in their order."""
    both = [(g, metric(g, cost.metric), final_accuracy(g, scenario)) for g in groups]
    known = [(g, c, a) for g, c, a in both if c is not None and a is not None]
    pairs = [(c.mean, a.mean) for _, c, a in known]
    return [Point(g, c, a, is_efficient((c.mean, a.mean), pairs)) for g, c, a in known]


def is_efficient(pair: tuple[float, float], pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether none of `pairs`, (cost, accuracy), is as good in both and better in one."""
    cost, accuracy = pair
    return not any(c <= cost and a >= accuracy and (c, a) != pair for c, a in pairs)


def pareto_chart(
    points: Sequence[Point], cost: Cost, theme: Theme, frame: Frame, index: Mapping[int, int]
) -> tuple[Drawing, list[Line]]:
    """The chart, and what its legend names.

    Args:
        points: at least one.
        cost: of the x axis.
        theme: the colors.
        frame: the size.
        index: `id` of a group → its number, which gives its color and symbol.
    """
    unit, factor = _unit(cost, max(point.cost.mean for point in points))
    x = _cost_axis(f"{cost.title} ({unit})", [point.cost for point in points], factor)
    edges = [
        100 * (p.accuracy.mean + sign * (p.accuracy.std or 0.0)) for p in points for sign in (-1, 1)
    ]
    y = nice_axis("accuracy", max(0.0, min(edges)), min(100.0, max(edges)))
    front = sorted((p.cost.mean / factor, 100 * p.accuracy.mean) for p in points if p.on_front)
    shapes: list[Shape] = [*axes(x, y, theme, frame), _steps(front, x, y, theme, frame)]
    lines = []
    for point in points:
        number = index[id(point.group)]
        color, symbol = theme.group(number), SYMBOLS[number % len(SYMBOLS)]
        shapes += _drawn(point, factor, x, y, color, symbol, frame)
        lines.append(Line(point.group.name, (), (), color, symbol=symbol))
    return Drawing(frame.width, frame.height, cost.title, tuple(shapes), frame.printed), lines


def _drawn(
    point: Point, factor: float, x: Axis, y: Axis, color: str, symbol: str, frame: Frame
) -> list[Shape]:
    """Bars of one standard deviation both ways, and the symbol, hollow below the front."""
    at, value = point.cost.mean / factor, 100 * point.accuracy.mean
    hint = f"{point.group.name}: {value:.2f} %, {at:,.4g}"
    width = 1.2 * frame.scale
    low, high = _around(value, 100 * (point.accuracy.std or 0.0), y)
    left, right = _around(at, (point.cost.std or 0.0) / factor, x)
    center = frame.at_x(x, at), frame.at_y(y, value)
    bars: list[Shape] = []
    if low < high:
        ends = [(center[0], frame.at_y(y, low)), (center[0], frame.at_y(y, high))]
        bars.append(Curve(ends, color, width))
    if left < right:
        ends = [(frame.at_x(x, left), center[1]), (frame.at_x(x, right), center[1])]
        bars.append(Curve(ends, color, width))
    radius = 1.7 * DOT_RADIUS * max(frame.scale, 0.75)
    return [*bars, Marks([center], color, symbol, radius, not point.on_front, hint)]


def _around(value: float, spread: float, axis: Axis) -> tuple[float, float]:
    return max(value - spread, axis.low), min(value + spread, axis.high)


def _steps(
    front: Sequence[tuple[float, float]], x: Axis, y: Axis, theme: Theme, frame: Frame
) -> Curve:
    """The best accuracy that is to be had for a cost: level up to the next point of the front."""
    corners: list[tuple[float, float]] = []
    for at, value in front:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    corners.append((x.high, front[-1][1]))
    points = [(frame.at_x(x, at), frame.at_y(y, value)) for at, value in corners]
    return Curve(points, theme.muted, 1.2 * frame.scale, scaled_dash("2 3", frame))


def _unit(cost: Cost, largest: float) -> tuple[str, float]:
    fitting = [(unit, factor) for unit, factor in cost.units.items() if factor <= largest]
    return fitting[-1] if fitting else next(iter(cost.units.items()))


def _cost_axis(name: str, costs: Sequence[Spread], factor: float) -> Axis:
    """The bars are on it too; from 0 on, unless all lie far from it."""
    low, high = min(c.mean for c in costs) / factor, max(c.mean for c in costs) / factor
    if low <= 0 or high / low < LOG_FROM:
        ends = [(c.mean + sign * (c.std or 0.0)) / factor for c in costs for sign in (-1, 1)]
        return snug_axis(name, min(ends) if min(ends) > 0.4 * max(ends) else 0.0, max(ends), 6)
    low, high = low / 1.25, high * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) < 4 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return Axis(f"{name}, logarithmic", low, high, [t for t in ticks if low <= t <= high], log=True)
