"""The page of results: what is compared with what, and what is said of what was not run."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from perdure.cli.results_page import (
    Measured,
    lines_of,
    of_sheet,
    page,
    sheet,
    step_times,
    with_earlier,
)  # fmt: skip
from perdure.config.published import published
from perdure.config.tables import Setting

ABOUT = {"commit": "abc", "date": "2026-12-01"}
"""When a row was run."""


@pytest.fixture(scope="module")
def er() -> Setting:
    return published.settings["dark-experience/seq-mnist/er-500"]


def test_a_figure_is_compared_with_the_published_one_and_not_with_the_rerun(er: Setting) -> None:
    rows = [
        Measured(er, {"class_il": [86.0, 87.0, 88.0], "task_il": [90.0, 90.1, 90.2]}, (0, 1, 2))
    ]
    class_il, task_il = lines_of(rows)
    assert class_il.figure is not None
    assert class_il.figure.origin == "recalled"
    assert class_il.rerun is not None
    assert class_il.rerun.mean == 87.02
    assert class_il.verdict == "consistent"
    assert task_il.verdict == "differs (recalled)"
    assert 0 <= task_il.p < 0.01 < class_il.p


def test_more_tests_make_each_one_stricter(er: Setting) -> None:
    row = Measured(er, {"class_il": [83.0, 84.0, 85.0]}, (0, 1, 2))
    alone = lines_of([row])[0].p
    assert [line.p for line in lines_of([row, row])] == pytest.approx([2 * alone, 2 * alone])


def test_the_page(er: Setting) -> None:
    sgd = published.settings["dark-experience/seq-mnist/ewc-online"]
    cifar = published.settings["dark-experience/seq-cifar10/er-500"]
    rows = [
        Measured(er, {"class_il": [86.0, 87.0, 88.0]}, (0, 1, 2), 7.5, "12 passed", **ABOUT),
        Measured(sgd, {"class_il": [20.0]}, (0,)),
        Measured(cifar, {}, missing="needs a GPU"),
    ]
    text = page(lines_of(rows))
    first, *_, last = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `er-500")
    ]
    assert first == [
        "`er-500`", "class-IL", "87.00 ± 1.00", "3", "86.12 (recalled)", "87.02 ± 1.12",
        "consistent", "7.5", "12 passed",
    ]  # fmt: skip
    assert last[1:4] == ["task-IL", "needs a GPU", ""]
    (one,) = [line for line in text.splitlines() if line.startswith("| `ewc-online")]
    assert [cell.strip() for cell in one.split("|")[3:8]] == [
        "20.00", "1", "20.46 (recalled)", "", "one seed",
    ]  # fmt: skip
    assert "## seq-mnist (Buzzega et al. 2020 (NeurIPS))" in text
    assert "needs a GPU" in text
    assert "- `ewc-online`: strength is twice e_lambda of the source" in text
    assert "1 row of 2026-12-01, commit abc." in text


def test_the_sheet_has_what_the_page_has_and_the_command(er: Setting) -> None:
    rows = [Measured(er, {"class_il": [86.0, 88.0]}, (0, 1), 7.5, "12 passed", **ABOUT)]
    (record,) = csv.DictReader(io.StringIO(sheet(lines_of(rows))))
    assert record["setting"] == er.name
    assert record["command"] == f"perdure train experiment={er.name}"
    assert (record["mean"], record["n"], record["seeds"]) == ("87.000", "2", "0 1")
    assert (record["published_origin"], record["rerun_by"]) == ("recalled", "mammoth@e75a491")
    assert (record["commit"], record["verdict"]) == ("abc", "consistent")


def test_the_cost_of_steps_is_shown_where_it_was_measured(er: Setting, tmp_path: Path) -> None:
    file = tmp_path / "step-times.csv"
    assert step_times(file) == []
    file.write_text(
        "method,step_us,relative_to_er,forward_passes,backward_passes,cpu_seconds\n"
        "er,500,1.00,1,1,0.3\nmir,1700,3.40,4,3,1.0\n"
    )
    lines = lines_of([Measured(er, {})])
    assert "The cost of a step" not in page(lines)
    text = page(lines, step_times(file))
    (row,) = [line for line in text.splitlines() if line.startswith("| `mir`")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["1700", "3.40", "4", "3"]


def test_the_page_follows_from_the_sheet(er: Setting) -> None:
    cifar = published.settings["dark-experience/seq-cifar10/er-500"]
    accuracy = {"class_il": [86.12345, 87.0, 88.0], "task_il": [99.0, 99.1, 99.2]}
    rows = [
        Measured(er, accuracy, (0, 1, 2), 7.5, "12 passed", **ABOUT),
        Measured(cifar, {}, missing="needs a GPU"),
    ]
    again = of_sheet(sheet(lines_of(rows)), published.settings)
    assert page(lines_of(again)) == page(lines_of(rows))
    assert sheet(lines_of(again)) == sheet(lines_of(rows))


def test_rows_that_are_not_run_again_stay(er: Setting) -> None:
    der, si = (
        published.settings[f"dark-experience/seq-mnist/{name}"] for name in ("der-500", "si")
    )
    before = [
        Measured(si, {"class_il": [19.0]}, (0,), commit="old"),
        Measured(er, {"class_il": [85.0]}, (0,), audit="12 passed", commit="old"),
    ]
    now = [
        Measured(si, {}, missing="not run"),
        Measured(er, {"class_il": [86.0, 87.0]}, (0, 1), commit="new"),
        Measured(der, {}, missing="not run"),
    ]
    der_row, er_row, si_row = with_earlier(now, before, published.settings)
    assert (der_row.setting, der_row.missing) == (der, "not run")
    assert (er_row.commit, er_row.accuracy["class_il"], er_row.audit) == (
        "new",
        [86.0, 87.0],
        "12 passed",
    )
    assert (si_row.commit, si_row.accuracy) == ("old", {"class_il": [19.0]})
