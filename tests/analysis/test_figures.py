"""Figures of many runs: numbers, groups that are told apart without color, sizes of columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.analysis.curves import groups_of
from perdure.analysis.figures import FIGURES, Plot, View
from perdure.analysis.runs import read
from perdure.tracking.charts import COLUMNS, Frame
from perdure.tracking.drawing import Area, Curve, Drawing, Marks, Rect, Segment, Text, text_width


def plots(place: Path, name: str, frame: Frame | None = None) -> list[Plot]:
    groups = groups_of(read([place]))
    view = View(groups, "class_il") if frame is None else View(groups, "class_il", frame=frame)
    return list(FIGURES[name](view))


def rows(plot: Plot) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plot.table)))


def texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Text)]


def points(shape: object) -> list[tuple[float, float]]:
    """All corners that a shape surely has."""
    if isinstance(shape, Rect):
        return [(shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height)]
    if isinstance(shape, Segment):
        return [(shape.x1, shape.y1), (shape.x2, shape.y2)]
    if isinstance(shape, Curve | Area | Marks):
        return [point for point in shape.points if point is not None]
    assert isinstance(shape, Text)
    length = 0.85 * text_width(shape.text, shape.size)
    before = {"start": 0.0, "middle": length / 2, "end": length}[shape.anchor]
    if shape.turned:
        return [(shape.x, shape.y + before), (shape.x, shape.y + before - length)]
    return [(shape.x - before, shape.y), (shape.x - before + length, shape.y)]


def test_accuracy_over_tasks_with_bands(sweep: Path) -> None:
    (plot,) = plots(sweep, "accuracy")
    assert plot.name == "accuracy_class_il"
    table = rows(plot)
    assert [(r["group"], r["after_task"], r["runs"]) for r in table] == [
        (group, str(task), "2") for group in ("er", "derpp") for task in range(3)
    ]
    assert float(table[2]["mean"]) == pytest.approx(0.625)
    assert float(table[2]["std"]) == pytest.approx(0.05 / 2**0.5)
    bands = [shape for shape in plot.drawing.shapes if isinstance(shape, Area)]
    assert len(bands) == 2
    assert "bands: ± 1 standard deviation over 2 seeds" in texts(plot.drawing)
    assert {"er", "derpp"} <= set(texts(plot.drawing))


def test_a_band_is_one_standard_deviation_high(sweep: Path) -> None:
    """In the units of the y axis, which its grid gives."""
    (plot,) = plots(sweep, "accuracy")
    grid = sorted(s.y1 for s in plot.drawing.shapes if isinstance(s, Segment) and s.kind == "grid")
    ticks = [s for s in plot.drawing.shapes if isinstance(s, Text) and s.kind == "tick"]
    values = sorted({float(t.text) for t in ticks if t.anchor == "end"})
    unit = (grid[-1] - grid[0]) / (values[-1] - values[0])
    band = next(shape for shape in plot.drawing.shapes if isinstance(shape, Area))
    last = [y for x, y in band.points if x == max(x for x, _ in band.points)]
    assert (max(last) - min(last)) / unit == pytest.approx(2 * 100 * 0.05 / 2**0.5, rel=0.01)


def test_groups_differ_without_their_colors(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    for job, model in enumerate("abcdefgh"):
        make_run(tmp_path / str(job), model)
    (plot,) = plots(tmp_path, "accuracy")
    lines = [s for s in plot.drawing.shapes if isinstance(s, Curve) and len(s.points) == 3]
    symbols = [s for s in plot.drawing.shapes if isinstance(s, Marks) and len(s.points) == 3]
    looks = {(line.dash, mark.symbol) for line, mark in zip(lines, symbols, strict=True)}
    assert len(lines) == len(looks) == 8
    assert not [s for s in plot.drawing.shapes if isinstance(s, Area)]  # single runs have no band
    assert not any("deviation" in text for text in texts(plot.drawing))


def test_a_joint_run_is_a_level_line_and_forgets_nothing(
    sweep: Path, make_run: Callable[..., Path]
) -> None:
    make_run(sweep / "4", "sgd", typed=("training=joint",), training="joint",
             accuracy_matrix={"class_il": [[0.9, 0.8, 0.7]]})  # fmt: skip
    (plot,) = plots(sweep, "accuracy")
    level = [r for r in rows(plot) if r["group"] == "sgd, trained jointly"]
    assert [float(r["mean"]) for r in level] == pytest.approx([0.8] * 3)
    (lost,) = plots(sweep, "forgetting")
    assert {r["group"] for r in rows(lost)} == {"er", "derpp"}


def test_retention_and_forgetting_by_task(sweep: Path) -> None:
    (kept,), (lost,) = plots(sweep, "retention"), plots(sweep, "forgetting")
    derpp = [float(r["mean"]) for r in rows(kept) if r["group"] == "derpp"]
    assert derpp == pytest.approx([0.65 / 0.9, 0.775 / 0.9, 1.0])
    er = [float(r["mean"]) for r in rows(lost) if r["group"] == "er"]
    assert er == pytest.approx([0.55, 0.275])


def test_accuracy_against_each_cost_that_differs(sweep: Path) -> None:
    found = {plot.name: plot for plot in plots(sweep, "pareto")}
    # All have the same FLOPs, and the time of a seed; only the exemplars differ.
    assert list(found) == ["pareto_bytes_class_il"]
    table = rows(found["pareto_bytes_class_il"])
    assert [(r["group"], r["on_front"]) for r in table] == [("er", "1"), ("derpp", "1")]
    assert [float(r["bytes_mean"]) for r in table] == [2000, 3000]
    marks = [s for s in found["pareto_bytes_class_il"].drawing.shapes if isinstance(s, Marks)]
    assert not any(mark.hollow for mark in marks)


def test_confusion_of_a_group_is_that_of_its_runs_together(sweep: Path) -> None:
    er, _ = plots(sweep, "confusion")
    assert er.caption == "confusion matrix: er (2 runs together)"
    assert rows(er)[0] == {"group": "er", "true": "cat", "predicted": "cat", "count": "16"}
    assert len(rows(er)) == 9


def test_orders_are_a_row_a_group(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    for job in range(8):
        dataset = {"name": "d", "seed": job % 4, "class_order": "random"}
        make_run(tmp_path / str(job), "er" if job < 4 else "derpp", job % 4,
                 config={"dataset": dataset})  # fmt: skip
    (plot,) = plots(tmp_path, "orders")
    assert [r["group"] for r in rows(plot)] == ["er"] * 4 + ["derpp"] * 4
    strips = [s for s in plot.drawing.shapes if isinstance(s, Marks)]
    assert [len(strip.points) for strip in strips] == [4, 4]


def test_one_class_order_has_no_distribution(sweep: Path) -> None:
    assert plots(sweep, "orders") == []


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("n_tasks", [2, 20])
def test_figures_for_print_fit_their_column(
    tmp_path: Path, make_run: Callable[..., Path], columns: int, n_tasks: int
) -> None:
    n = 100
    names = [f"class number {i}" for i in range(n)]
    counts = [[90 if i == j else (i + j) % 3 for j in range(n)] for i in range(n)]
    for job in range(9):
        dataset = {"name": "d", "seed": job % 3, "class_order": "random"}
        make_run(
            tmp_path / str(job), f"a-method-with-a-long-name-{job // 3}", job % 3,
            end=0.1 + 0.1 * job, n_tasks=n_tasks, config={"dataset": dataset},
            cost={"bytes": {"exemplars": 10**job}}, class_names=names,
            confusion={"classes": list(range(n)), "counts": counts},
        )  # fmt: skip
    for name in FIGURES:
        found = plots(tmp_path, name, COLUMNS[columns])
        assert found, name
        for plot in found:
            figure = plot.drawing
            assert figure.printed
            assert figure.width <= COLUMNS[columns].width + 0.01
            for shape in figure.shapes:
                for x, y in points(shape):
                    assert -0.01 <= x <= figure.width + 0.01, (name, shape)
                    assert -0.01 <= y <= figure.height + 0.01, (name, shape)
                if isinstance(shape, Text):
                    assert shape.size >= 7  # points: readable in print


def test_damaged_confusions_are_left_out(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    for job, odd in enumerate(
        ({"classes": 3, "counts": 1}, [], {"classes": [0], "counts": [[-1]]})
    ):
        make_run(tmp_path / str(job), seed=job, confusion=odd)
    assert plots(tmp_path, "confusion") == []
