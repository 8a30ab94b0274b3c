from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tracking.colors import COLOR_SCALE, accuracy_color, css, text_color
from perdure.tracking.plots import BOTTOM, DPI, GAP, LEFT, draw_accuracy_matrix

Image = pytest.importorskip("PIL.Image")


def luminance(color: tuple[float, ...]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def pixel(image: Any, left_inches: float, up_inches: float) -> tuple[float, ...]:
    """The color at a place counted from the lower left corner."""
    at = (round(left_inches * DPI), image.height - round(up_inches * DPI))
    return tuple(part / 255 for part in image.convert("RGB").getpixel(at))


def draw(run: Any, path: Path, tasks_done: int | None = None) -> Any:
    path.parent.mkdir(exist_ok=True)
    draw_accuracy_matrix(run.results(run.n_tasks if tasks_done is None else tasks_done), path)
    return Image.open(path)


def test_cells_have_the_color_of_their_accuracy(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    run = make_run(n_tasks=5)
    image = draw(run, tmp_path / "m.png")
    width, height = 0.58, 0.44
    for panel, rows in enumerate(run.results(5)["accuracy_matrix"].values()):
        left = LEFT + panel * (5 * width + GAP)
        for i, row in enumerate(rows):
            for j in range(5):
                # A corner of the cell, beside its figure.
                found = pixel(image, left + (j + 0.08) * width, BOTTOM + (5 - i - 0.15) * height)
                expected = accuracy_color(row[j]) if j <= i else (1, 1, 1)
                assert found == pytest.approx(expected, abs=0.02), (panel, i, j)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"n_tasks": 5}, (797, 385)),
        ({"n_tasks": 20, "scenarios": ("domain_il",)}, (723, 583)),
        ({"n_tasks": 5, "joint": True}, (797, 209)),
        ({"n_tasks": 1}, (687, 209)),
    ],
    ids=["5-tasks", "20-tasks", "joint", "1-task"],
)
def test_the_picture_grows_with_the_matrix_and_not_more(
    make_run: Callable[..., Any], tmp_path: Path, arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    run = make_run(**arguments)
    image = draw(run, tmp_path / "m.png", tasks_done=1 if run.joint else None)
    assert image.size == pytest.approx(size, abs=2)


def test_nothing_is_drawn_before_the_first_task(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    draw_accuracy_matrix(make_run().results(0), tmp_path / "m.png")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_looks_like_mathematics_is_only_a_name(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    draw(make_run(model=r"$\frac{1}$_$"), tmp_path / "m.png")


def test_an_accuracy_that_is_no_number_leaves_its_cell_empty(tmp_path: Path) -> None:
    results = {"accuracy_matrix": {"class_il": [[math.nan]]}, "training": "continual"}
    draw_accuracy_matrix(results, tmp_path / "m.png")
    image = Image.open(tmp_path / "m.png")
    assert pixel(image, LEFT + 0.2, BOTTOM + 0.5) == (1, 1, 1)


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from perdure.tracking import plots, report, files\n"
        "assert 'matplotlib' not in sys.modules, 'imported too early'\n"
        "results = {'accuracy_matrix': {'class_il': [[0.5]]}}\n"
        f"plots.draw_accuracy_matrix(results, Path({str(tmp_path / 'm.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.floats(0, 1))
def test_numbers_are_readable_on_every_color(fraction: float) -> None:
    background = accuracy_color(fraction)
    light = luminance(background)
    black = (light + 0.05) / (luminance((17 / 255,) * 3) + 0.05)
    white = 1.05 / (light + 0.05)
    chosen, other = (black, white) if text_color(background) == "#111" else (white, black)
    assert chosen >= other
    assert chosen >= 4.2


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_accuracy_is_never_lighter(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert luminance(accuracy_color(low)) >= luminance(accuracy_color(high)) - 1e-9


@pytest.mark.parametrize(
    ("fraction", "color"),
    [(-1.0, COLOR_SCALE[0]), (0.0, COLOR_SCALE[0]), (0.5, COLOR_SCALE[2]), (1.0, COLOR_SCALE[-1]),
     (2.0, COLOR_SCALE[-1]), (math.nan, COLOR_SCALE[0])],
    ids=str,
)  # fmt: skip
def test_the_ends_of_the_scale(fraction: float, color: tuple[float, ...]) -> None:
    assert accuracy_color(fraction) == pytest.approx(color)


def test_css_color() -> None:
    assert css((0.0, 0.5, 1.0)) == "rgb(0 128 255)"
