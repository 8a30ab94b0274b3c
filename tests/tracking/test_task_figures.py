"""Retention and forgetting of a run's tasks, against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from perdure.metrics.functional import forgetting as mean_forgetting
from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import Marks, Rect, Segment
from perdure.tracking.run_data import RunData
from perdure.tracking.task_figures import ends_table, forgetting, retention, task_ends

ROWS = [[0.8], [0.9, 0.9], [0.3, 0.95, 1.0]]


def data_of(rows: Any) -> RunData:
    return RunData({"accuracy_matrix": {"class_il": rows}}, Path("nowhere"))


def test_what_the_matrix_says_of_each_task() -> None:
    ends = task_ends(ROWS)
    assert [(e.learned, e.best, e.last) for e in ends] == [
        (0.8, 0.9, 0.3), (0.9, 0.9, 0.95), (1.0, None, 1.0),
    ]  # fmt: skip
    lost = [e.forgotten for e in ends[:-1]]
    assert lost == pytest.approx([0.6, -0.05])
    assert sum(x or 0 for x in lost) / 2 == pytest.approx(mean_forgetting(ROWS))
    assert task_ends([[0.5]]) == []


def test_a_line_joins_both_accuracies_of_a_task() -> None:
    figure = retention(data_of(ROWS), PAPER)
    assert figure is not None
    learned, last = [s for s in figure.shapes if isinstance(s, Marks) and len(s.points) == 3]
    assert (learned.hollow, last.hollow) == (True, False)
    lines = [s for s in figure.shapes if isinstance(s, Segment) and s.x1 == s.x2]
    assert [(s.x1, s.y1, s.y2) for s in lines] == [
        (x, y, end) for (x, y), (_, end) in zip(learned.points, last.points, strict=True)
    ]
    assert last.points[0][1] > learned.points[0][1]  # it fell: lower on the page


def test_a_bar_a_task_down_where_it_has_improved() -> None:
    figure = forgetting(data_of(ROWS), PAPER)
    assert figure is not None
    first, second = [s for s in figure.shapes if isinstance(s, Rect)]
    assert first.height / second.height == pytest.approx(12, rel=0.01)
    assert first.y + first.height == pytest.approx(second.y)  # on both sides of zero
    assert first.hint == "task 0: 60.0 points"


@pytest.mark.parametrize("rows", [[], [[0.5]], [[None], [None, None]]], ids=str)
def test_nothing_to_forget_is_no_figure(rows: Any) -> None:
    assert retention(data_of(rows), PAPER) is None
    assert forgetting(data_of(rows), PAPER) is None


def test_the_table_has_fractions() -> None:
    table = list(csv.reader(io.StringIO(ends_table(data_of(ROWS)))))
    assert table[1] == ["class_il", "0", "0.8", "0.9", "0.3", str(0.9 - 0.3)]
    assert table[3] == ["class_il", "2", "1.0", "", "1.0", ""]
