"""The Pareto front, and axes of costs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.analysis.curves import Group, Spread
from perdure.analysis.pareto import COSTS, _cost_axis, is_efficient, pareto_chart, points_of
from perdure.analysis.runs import Run
from perdure.tracking.charts import SCREEN
from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import Curve, Marks

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@given(PAIRS)
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    """Sorted by cost, each point of the front reaches more than all that cost less."""
    front = [pair for pair in pairs if is_efficient(pair, pairs)]
    assert front
    ordered = sorted(set(front))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(ordered))
    for cost, accuracy in pairs:
        assert any(c <= cost and a >= accuracy for c, a in front)


def group(name: str, accuracy: float, n_bytes: int) -> Group:
    results = {
        "average_accuracy": {"class_il": accuracy},
        "cost": {"bytes": {"exemplars": n_bytes}},
    }
    return Group(name, (Run(Path(name), "finished", results=results),))


def test_who_is_beaten_is_hollow_and_off_the_line() -> None:
    groups = [group("a", 0.5, 1000), group("b", 0.4, 2000), group("c", 0.9, 3000)]
    points = points_of(groups, "class_il", COSTS[0])
    assert [point.on_front for point in points] == [True, False, True]
    index = {id(g): i for i, g in enumerate(groups)}
    drawing, legend = pareto_chart(points, COSTS[0], PAPER, SCREEN, index)
    marks = [shape for shape in drawing.shapes if isinstance(shape, Marks)]
    assert [mark.hollow for mark in marks] == [False, True, False]
    assert [line.name for line in legend] == ["a", "b", "c"]
    (steps,) = [s for s in drawing.shapes if isinstance(s, Curve) and s.dash]
    assert marks[0].points[0] in steps.points
    assert marks[1].points[0] not in steps.points


@pytest.mark.parametrize(
    ("values", "log"),
    [([1, 2, 15], False), ([0, 1, 1000], False), ([90, 95, 99], False), ([1, 30, 1000], True)],
    ids=str,
)
def test_an_axis_of_costs_holds_them(values: list[float], log: bool) -> None:
    axis = _cost_axis("cost", [Spread(2, 10 * value, 1.0) for value in values], 10)
    assert axis.log == log
    places = [axis.place(value) for value in values]
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    assert 2 <= len(axis.ticks) <= 12
    assert (axis.low > 50) == (min(values) > 50)
