"""Classes in results.json and in the report: names, accuracy of each, confusion matrix."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from perdure.tracking.classes import class_name, classes_by_task, confusion_of, per_class
from perdure.tracking.report import write_report

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "<b>Sandal")
NAMES = {"class_names": list(CLOTHES), "task_classes": [[0, 1], [2, 3], [4, 5]]}
COUNTS = [[9 if i == j else (i * j) % 3 for j in range(6)] for i in range(6)]


@pytest.mark.parametrize(
    ("label", "shown"),
    [(1, "Trouser"), ("1", "Trouser"), ("Dress", "Dress"), (7, "7"), ("7", "7"), (-1, "-1"),
     ("unknown", "unknown")],
    ids=repr,
)  # fmt: skip
def test_a_class_is_its_name(label: Any, shown: str) -> None:
    assert class_name(NAMES, label) == shown
    assert class_name({}, label) == str(label)


def test_results_without_classes_have_none() -> None:
    for results in ({}, {"confusion": None}, {"confusion": {"classes": [], "counts": []}}):
        assert confusion_of(results) is None
        assert per_class(results) == classes_by_task(results) == []
    torn = {"confusion": {"classes": [0, 1], "counts": [[1, 2], [3]]}}
    assert confusion_of(torn) is None


def test_the_confusion_matrix_is_read_with_its_names() -> None:
    found = confusion_of({**NAMES, "confusion": {"classes": [0, "3"], "counts": [[5, 1], [0, 2]]}})
    assert found == (("T-shirt/top", "Dress"), ((5, 1), (0, 2)))


@pytest.fixture
def page(make_run: Callable[..., Any]) -> Callable[..., str]:
    """The report of a run whose results.json has more keys."""

    def write(**more: Any) -> str:
        run = make_run(n_tasks=3)
        run.folder.mkdir(exist_ok=True)
        write_report(run.folder, run.start(), {**run.results(3, "finished"), **more})
        return Path(run.folder / "report.html").read_text()

    return write


def headings(html: str) -> list[str]:
    return re.findall("<h2>([^<]+)</h2>", html)


def test_the_report_names_the_classes_of_each_task(page: Callable[..., str]) -> None:
    html = page(**NAMES)
    assert "<dt>task 1</dt><dd>Pullover, Dress</dd>" in html
    assert '<th scope="col" title="T-shirt/top, Trouser">0</th>' in html
    assert "<b>" not in html
    assert 'class="bars"' not in html
    assert "Confusion matrix" not in headings(html)


def test_tasks_of_the_same_classes_are_said_once(page: Callable[..., str]) -> None:
    html = page(class_names=["0", "1"], task_classes=[[0, 1]] * 3)
    assert re.findall("<dt>(every task|task [0-9])</dt><dd>([^<]+)</dd>", html) == [
        ("every task", "0, 1")
    ]


def test_results_of_before_have_no_section_of_classes(page: Callable[..., str]) -> None:
    assert not {"Classes", "Confusion matrix"} & set(headings(page()))


def test_the_report_shows_the_accuracy_of_each_class(page: Callable[..., str]) -> None:
    html = page(**NAMES, per_class_accuracy={"0": 1.0, "1": 0.125, "2": 0.0, "5": 0.75, "9": 0.5})
    rows = re.findall(
        r'<th scope="row">([^<]+)</th>(?:<td>([\d.]+)</td>.*?width:([\d.]+)%)?',
        html.split("Metr")[0],
    )
    shown = {unescape(name): (value, width) for name, value, width in rows if value}
    assert shown == {
        "T-shirt/top": ("100.0", "100.0"), "Trouser": ("12.5", "12.5"), "Pullover": ("0.0", "0.0"),
        "<b>Sandal": ("75.0", "75.0"), "9": ("50.0", "50.0"),
    }  # fmt: skip
    assert re.findall("<caption>([^<]+)", html) == ["task 0", "task 1", "task 2", "other classes"]


def test_the_report_shows_the_confusion_matrix(page: Callable[..., str]) -> None:
    html = page(**NAMES, confusion={"classes": list(range(6)), "counts": COUNTS})
    section = html[html.index("Confusion matrix") : html.index("Configuration")]
    hints = [unescape(hint) for hint in re.findall("<rect.*?<title>([^<]+)", section)]
    total = sum(COUNTS[1])
    assert f"Trouser as Pullover: 2 of {total} ({200 / total:.1f} %)" in hints
    assert len(hints) == sum(count > 0 for row in COUNTS for count in row)
    assert "<b>" not in html


@pytest.mark.parametrize("n", [100, 101])
def test_many_classes_have_a_table_and_up_to_100_a_small_picture(
    page: Callable[..., str], n: int
) -> None:
    counts = [[50 if i == j else (i * j) % 4 for j in range(n)] for i in range(n)]
    html = page(
        class_names=[f"class {i}" for i in range(n)],
        task_classes=[list(range(n))],
        per_class_accuracy={str(i): 0.5 for i in range(n)},
        confusion={"classes": list(range(n)), "counts": counts},
    )
    assert ("Confusion matrix" in headings(html)) == (n <= 100)
    assert html.count('class="bar"') == n
    assert len(html) < 300_000
