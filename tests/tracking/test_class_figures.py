"""Accuracy by class, and what the buffer holds: bars as high as their numbers."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from perdure.tracking.charts import COLUMNS
from perdure.tracking.class_figures import (
    buffer_composition,
    buffer_table,
    class_accuracy,
    class_table,
)
from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import Rect, Text
from perdure.tracking.run_data import RunData

RESULTS: dict[str, Any] = {
    "class_names": ["cat", "dog", "owl", "bee"],
    "task_classes": [[2, 0], [1, 3]],
    "per_class_accuracy": {"2": 0.25, "0": 0.5, "1": 1.0, "3": None},
    "buffer_classes": [[6, 0, 4, 0], [2, 3, 2, 3]],
}


def data_of(**changes: Any) -> RunData:
    return RunData({**RESULTS, **changes}, Path("nowhere"))


def rects(drawing: Any) -> list[Rect]:
    return [shape for shape in drawing.shapes if isinstance(shape, Rect)]


def names(drawing: Any, kind: str = "") -> list[str]:
    return [s.text for s in drawing.shapes if isinstance(s, Text) and s.kind == kind]


def test_a_bar_a_class_as_high_as_its_accuracy_in_the_color_of_its_task() -> None:
    owl, cat, dog = rects(class_accuracy(data_of(), PAPER))
    assert [bar.hint for bar in (owl, cat, dog)] == ["owl: 25.0 %", "cat: 50.0 %", "dog: 100.0 %"]
    assert dog.height == pytest.approx(2 * cat.height) == pytest.approx(4 * owl.height)
    assert owl.color == cat.color != dog.color
    table = list(csv.reader(io.StringIO(class_table(data_of()))))
    assert table == [["class", "task", "accuracy"], ["owl", "0", "0.25"], ["cat", "0", "0.5"],
                     ["dog", "1", "1.0"], ["bee", "1", ""]]  # fmt: skip


def test_a_hundred_classes_each_have_their_name_on_a_page() -> None:
    many = {str(i): 0.5 for i in range(100)}
    data = data_of(class_names=[f"class {i}" for i in range(100)], task_classes=[],
                   per_class_accuracy=many)  # fmt: skip
    page, column = class_accuracy(data, PAPER), class_accuracy(data, PAPER, COLUMNS[1])
    assert page is not None
    assert column is not None
    assert {f"class {i}" for i in range(100)} <= set(names(page))
    shown = [s for s in column.shapes if isinstance(s, Text) and s.text.startswith("class ")]
    places = sorted(text.x for text in shown)
    assert len(places) >= 15
    assert min(b - a for a, b in pairwise(places)) >= shown[0].size
    assert column.width <= COLUMNS[1].width


def test_a_stack_a_task_end() -> None:
    cells = rects(buffer_composition(data_of(), PAPER))
    assert [cell.hint for cell in cells] == [
        "owl: 4 after task 0", "cat: 6 after task 0",
        "owl: 2 after task 1", "cat: 2 after task 1", "dog: 3 after task 1", "bee: 3 after task 1",
    ]  # fmt: skip
    tops = [min(c.y for c in cells if c.x == x) for x in sorted({c.x for c in cells})]
    assert tops[0] == pytest.approx(tops[1])  # both hold ten
    figure = buffer_composition(data_of(), PAPER)
    assert names(figure, "name") == ["task 0", "task 1"]
    table = list(csv.reader(io.StringIO(buffer_table(data_of()))))
    assert table[:3] == [["after_task", "class", "exemplars"], ["0", "owl", "4"], ["0", "cat", "6"]]
    assert len(table) == 9


def test_tasks_that_share_their_classes_name_these() -> None:
    figure = buffer_composition(data_of(task_classes=[[0, 1, 2, 3]] * 2), PAPER)
    assert names(figure, "name") == ["cat", "dog", "owl", "bee"]
    assert len({cell.color for cell in rects(figure)}) == 4


@pytest.mark.parametrize("held", [None, [], [None], [[0, 0, 0, 0]]], ids=str)
def test_no_buffer_is_no_figure(held: Any) -> None:
    assert buffer_composition(data_of(buffer_classes=held), PAPER) is None


def test_a_task_that_an_earlier_version_trained_is_a_gap() -> None:
    cells = rects(buffer_composition(data_of(buffer_classes=[None, [2, 3, 2, 3]]), PAPER))
    assert len(cells) == 4
    assert len({cell.x for cell in cells}) == 1
