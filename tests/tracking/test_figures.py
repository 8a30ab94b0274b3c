"""What a run draws: each figure holds its numbers, fits its page, and needs no matplotlib."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perdure.tracking.colors import PAGE, PAPER, accuracy_color, hexadecimal
from perdure.tracking.drawing import Area, Curve, Drawing, Marks, Rect, Segment, Text, text_width
from perdure.tracking.figures import FIGURES, drawn, write_figures
from perdure.tracking.heatmaps import MOST_CLASSES
from perdure.tracking.raster import SCALE
from perdure.tracking.run_data import RunData
from perdure.tracking.training_figures import training_rows


def triangle(n_tasks: int, value: float = 0.5) -> list[list[float]]:
    return [[value + 0.001 * i - 0.0005 * j for j in range(i + 1)] for i in range(n_tasks)]


def data_of(matrices: dict[str, Any], tmp: Path = Path("nowhere"), **more: Any) -> RunData:
    results = {"accuracy_matrix": matrices, "model": "er", "dataset": "d", "seed": 0, **more}
    return RunData(results, tmp / "metrics.jsonl")


def confusion(n: int) -> dict[str, Any]:
    counts = [[7 if i == j else (i + j) % 3 for j in range(n)] for i in range(n)]
    return {"classes": list(range(n)), "counts": counts}


def corners(shape: Any) -> list[tuple[float, float]]:
    """The corners of a shape's box."""
    if isinstance(shape, Rect):
        return [(shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height)]
    if isinstance(shape, Segment):
        return [(shape.x1, shape.y1), (shape.x2, shape.y2)]
    if isinstance(shape, Curve | Area | Marks):
        return [point for point in shape.points if point is not None]
    # Most letters are narrower than the room that is reserved for each.
    length = 0.85 * text_width(shape.text, shape.size)
    before = {"start": 0.0, "middle": length / 2, "end": length}[shape.anchor]
    if shape.turned:
        return [
            (shape.x - 0.7 * shape.size, shape.y + before),
            (shape.x, shape.y + before - length),
        ]
    return [(shape.x - before, shape.y - 0.7 * shape.size), (shape.x - before + length, shape.y)]


def require_fit(figure: Drawing) -> None:
    for shape in figure.shapes:
        for x, y in corners(shape):
            assert 0 <= x <= figure.width, shape
            assert 0 <= y <= figure.height, shape


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 110), st.sampled_from([("class_il", "task_il"), ("domain_il",)]))
def test_every_number_of_tasks_fits_its_page(n_tasks: int, scenarios: tuple[str, ...]) -> None:
    data = data_of(dict.fromkeys(scenarios, triangle(n_tasks)))
    for name in (
        "accuracy_matrix",
        "accuracy",
        *(("retention", "forgetting") if n_tasks > 1 else ()),
    ):
        figure = drawn(name, data)
        assert figure is not None
        require_fit(figure)
        assert figure.width <= 2200


@pytest.mark.parametrize("n_tasks", [1, 5, 20, 26])
def test_cells_have_the_color_and_the_number_of_their_accuracy(n_tasks: int) -> None:
    rows = triangle(n_tasks)
    figure = FIGURES["accuracy_matrix"].draw(data_of({"class_il": rows}), PAPER)
    assert figure is not None
    cells = [shape for shape in figure.shapes if isinstance(shape, Rect)]
    flat = [value for row in rows for value in row]
    assert [cell.color for cell in cells][: len(flat)] == [
        hexadecimal(accuracy_color(value)) for value in flat
    ]
    texts = [s for s in figure.shapes if isinstance(s, Text)]
    numbers = [s.text for s in texts if s.color in ("#111", "#fff")]
    decimals = 1 if n_tasks <= 12 else 0
    assert numbers == ([f"{100 * v:.{decimals}f}" for v in flat] if n_tasks <= 25 else [])
    # Cells with no numbers have a color bar that names its ends.
    assert ("100 %" in {s.text for s in texts}) == (n_tasks > 25)
    for text in texts:
        if text.color in ("#111", "#fff"):
            assert any(
                c.x <= corner[0] <= c.x + c.width and c.y <= corner[1] <= c.y + c.height
                for c in cells
                for corner in corners(text)[:1]
            )


@pytest.mark.parametrize("nothing", [math.nan, None], ids=str)
def test_an_accuracy_that_is_no_number_is_a_gap(nothing: float | None) -> None:
    data = data_of({"class_il": [[0.5], [nothing, 0.5], [0.25, 0.5, 0.75]]})
    matrix, curves = (FIGURES[name].draw(data, PAPER) for name in ("accuracy_matrix", "accuracy"))
    assert matrix is not None
    assert curves is not None
    assert sum(isinstance(shape, Rect) for shape in matrix.shapes) == 5
    first, *_, mean = [shape for shape in curves.shapes if isinstance(shape, Curve)]
    assert [point is None for point in first.points] == [False, True, False]
    assert [point is None for point in mean.points] == [False, True, False]


def test_a_joint_run_has_one_row_and_a_chart_over_tasks(make_run: Callable[..., Any]) -> None:
    run = make_run(joint=True)
    data = RunData(run.results(1), run.folder / "metrics.jsonl")
    matrix, curves = (FIGURES[name].draw(data, PAPER) for name in ("accuracy_matrix", "accuracy"))
    assert matrix is not None
    assert curves is not None
    texts = [shape.text for shape in matrix.shapes if isinstance(shape, Text)]
    assert "joint" in texts
    assert "after task" not in texts
    lines = [shape for shape in curves.shapes if isinstance(shape, Curve)]
    assert [len(line.points) for line in lines] == [3, 3]


@pytest.mark.parametrize("n", [2, 10, 21, 51, MOST_CLASSES])
def test_a_confusion_matrix_is_drawn_up_to_its_limit(n: int) -> None:
    data = data_of({}, confusion=confusion(n), class_names=[f"class number {i}" for i in range(n)])
    figure = drawn("confusion", data)
    assert figure is not None
    require_fit(figure)
    names = [s for s in figure.shapes if isinstance(s, Text) and s.text == "class number 1"]
    assert [name.turned for name in names] == [False, True]
    assert names[0].size >= 8.5
    rows = list(csv.reader(io.StringIO(FIGURES["confusion"].table(data))))
    assert rows[0] == ["true", "predicted", "count"]
    assert rows[2] == ["class number 0", "class number 1", "1"]
    assert len(rows) == 1 + n * n


def test_a_confusion_matrix_of_more_classes_has_no_picture() -> None:
    assert drawn("confusion", data_of({}, confusion=confusion(MOST_CLASSES + 1))) is None


def test_cells_of_a_confusion_matrix_are_shares_of_their_row() -> None:
    found = {"classes": ["a", "b", "c"], "counts": [[3, 1, 0], [0, 0, 0], [0, 0, 5]]}
    figure = FIGURES["confusion"].draw(data_of({}, confusion=found), PAGE)
    assert figure is not None
    hints = {shape.hint for shape in figure.shapes if isinstance(shape, Rect) and shape.hint}
    assert hints == {
        "a as a: 3 of 4 (75.0 %)", "a as b: 1 of 4 (25.0 %)", "c as c: 5 of 5 (100.0 %)",
    }  # fmt: skip


def test_a_run_leaves_its_figures(run: Any) -> None:
    run.folder.mkdir()
    write_figures(run.folder, run.results(0))
    assert list(run.folder.iterdir()) == []
    write_figures(run.folder, run.results(3))
    figures = run.folder / "figures"
    assert {path.name for path in figures.iterdir()} == {
        "accuracy_matrix.svg", "accuracy_matrix.png", "accuracy.svg", "retention.svg",
        "retention.csv", "forgetting.svg", "forgetting.csv",
    }  # fmt: skip
    root = ET.parse(figures / "accuracy_matrix.svg").getroot()
    with Image.open(figures / "accuracy_matrix.png") as image:
        assert image.size == tuple(
            round(SCALE * float(root.get(side) or 0)) for side in ("width", "height")
        )
    assert "er on seq-mnist, buffer 500, seed 0" in "".join(root.itertext())


@pytest.mark.process
def test_drawing_needs_no_matplotlib_and_little_else(tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path\n"
        "from perdure.tracking.figures import write_figures; import perdure.tracking.report\n"
        "write_figures(Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "print([m for m in ('matplotlib', 'numpy', 'torch') if m in sys.modules])\n"
    )
    results = json.dumps({"accuracy_matrix": {"class_il": triangle(3)}})
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), results],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"
    assert (tmp_path / "figures" / "accuracy_matrix.png").read_bytes()[:4] == b"\x89PNG"


def test_the_loss_as_a_table_is_what_the_curve_shows(tmp_path: Path) -> None:
    rows = [{"kind": "step", "task": 0, "global_step": i, "loss": 1 / i} for i in (1, 2, 3)]
    rows.append({"kind": "evaluation", "global_step": 3, "boundary": True})
    rows.append({"kind": "step", "task": 1, "global_step": 4, "loss": 2.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = data_of({}, tmp_path)
    assert [row[:2] for row in training_rows(data.metrics)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
        (3, None),
        (4, 2.0),
    ]
    table = list(csv.reader(io.StringIO(FIGURES["loss"].table(data))))
    assert table[0] == ["global_step", "loss"]
    assert [float(loss) for _, loss in table[1:]] == [1.0, 0.5, 1 / 3, 2.0]
    figure = FIGURES["loss"].draw(data, PAPER)
    assert figure is not None
    marks = [s for s in figure.shapes if isinstance(s, Segment) and s.kind == "mark"]
    assert len(marks) == 1
