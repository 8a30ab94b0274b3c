from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tracking.charts import HEIGHT, Axis, Line, line_chart, nice_axis, thinned
from perdure.tracking.colors import PAGE
from perdure.tracking.drawing import to_svg
from perdure.tracking.files import LocalFiles
from perdure.tracking.report import _training, write_report
from perdure.tracking.report_parts import flattened
from perdure.tracking.run_data import RunData

VOID = {"meta", "line", "circle", "br"}
HOSTILE = '<script>alert("1")</script>&"\'<b>'


class Page(HTMLParser):
    """A page as a browser sees it: balanced tags, their attributes, the text shown."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open_tags == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open_tags[-1:]:
            self.texts.append(data.strip())
        if self.open_tags[-1:] == ["td"]:
            self.cells.append(data)

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))


@pytest.fixture
def report(make_run: Callable[..., Any]) -> Callable[..., Page]:
    """Plays a run (arguments of FakeRun) and reads its report."""

    def play(**arguments: Any) -> Page:
        run = make_run(**arguments)
        run.play(LocalFiles(run.folder))
        return Page(run.folder / "report.html")

    return play


def test_the_page_shows_the_run(report: Callable[..., Page]) -> None:
    page = report()
    for words in (
        "er on seq-mnist, buffer 500", "finished", "seed 0", "average accuracy, class-IL",
        "94.76 %", "12.50 points", "3 of 3", "2.0 s", "buffer.size", "89,610", "results.json",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_matrix_is_a_table_a_scenario(report: Callable[..., Page], run: Any) -> None:
    page = report()
    figures = [cell for cell in page.cells if re.fullmatch(r"[\d.]+", cell)][:12]
    rows = run.results(3)["accuracy_matrix"]
    flat = [accuracy for matrix in rows.values() for row in matrix for accuracy in row]
    assert figures == [f"{100 * accuracy:.1f}" for accuracy in flat]


def test_the_page_calls_nobody(report: Callable[..., Page]) -> None:
    page = report()
    addresses = [value for name, value in page.attributes if name in {"href", "src", "xlink:href"}]
    assert addresses
    assert all(address and not re.match(r"[a-z]+:|//", address) for address in addresses)
    assert not {"script", "link", "iframe", "img"} & set(page.tags)


def test_names_are_never_markup(make_run: Callable[..., Any]) -> None:
    run = make_run(model=HOSTILE, scenarios=("class_il", HOSTILE))
    recorder = LocalFiles(run.folder)
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / '<b>"&#.pt').write_bytes(b"x")
    start = run.start(notices=(HOSTILE,))
    start.config[HOSTILE] = {HOSTILE: [HOSTILE]}
    recorder.receive(start)
    for task in range(3):
        for event in run.task(task):
            recorder.receive(event)
    recorder.receive(run.end(status=HOSTILE, error=HOSTILE))
    page = Page(run.folder / "report.html")
    assert not {"script", "b"} & set(page.tags)
    assert page.text.count(HOSTILE) >= 6
    links = [unquote(value or "") for name, value in page.attributes if name == "href"]
    assert 'checkpoints/<b>"&#.pt' in links


@pytest.mark.parametrize(
    ("status", "linked"),
    [("finished", ["er_0.pt"]), ("interrupted", ["er_0.pt", "step-50_full.pth"])],
    ids=["finished", "interrupted"],
)
def test_links_lead_to_checkpoints_that_stay(run: Any, status: str, linked: list[str]) -> None:
    checkpoints = run.folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("er_0.pt", "er_0.pt.json", "step-50_full.pth", "step-50_full.pth.json"):
        (checkpoints / name).touch()
    write_report(run.folder, run.start(), run.results(3, status))
    page = Page(run.folder / "report.html")
    links = [value for name, value in page.attributes if name == "href"]
    assert links == [f"checkpoints/{name}" for name in linked]


@pytest.mark.parametrize(
    ("arguments", "n_charts"),
    [({}, 7), ({"joint": True}, 1), ({"scenarios": ("domain_il",), "n_tasks": 20}, 4)],
    ids=["class-incremental", "joint", "20-tasks"],
)
def test_charts_are_drawn_where_there_is_something_to_see(
    report: Callable[..., Page], arguments: dict[str, Any], n_charts: int
) -> None:
    assert report(**arguments).tags.count("svg") == n_charts


def test_a_chart_of_many_tasks_names_some(run: Any, make_run: Callable[..., Any]) -> None:
    run = make_run(n_tasks=50, scenarios=("domain_il",))
    run.folder.mkdir()
    write_report(run.folder, run.start(), run.results(50, "finished"))
    svg = (run.folder / "report.html").read_text()
    assert len(re.findall('class="name"', svg)) == 18
    assert len(set(re.findall("<title>(task [0-9]+)<", svg))) == 50


def test_a_run_that_failed_at_once_still_has_a_page(run: Any) -> None:
    run.folder.mkdir()
    write_report(run.folder, run.start(), run.results(0, "failed"), "the data file is truncated")
    page = Page(run.folder / "report.html")
    assert "the data file is truncated" in page.text
    assert "svg" not in page.tags


def test_losses_that_are_no_numbers_are_gaps(run: Any) -> None:
    run.folder.mkdir()
    losses = [1.0, None, 0.5, 0.25]
    rows = [{"kind": "step", "task": 0, "global_step": i, "loss": x} for i, x in enumerate(losses)]
    (run.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_report(run.folder, run.start(), run.results(0))
    page = Page(run.folder / "report.html")
    (path,) = [value for name, value in page.attributes if name == "d"]
    assert path is not None
    assert (path.count("M"), path.count("L")) == (2, 1)


def test_a_long_run_has_a_small_page(run: Any) -> None:
    run.folder.mkdir()
    row = '{"kind": "step", "task": 0, "global_step": %d, "loss": 0.5}\n'
    (run.folder / "metrics.jsonl").write_text("".join(row % i for i in range(20_000)))
    write_report(run.folder, run.start(), run.results(3, "finished"))
    assert (run.folder / "report.html").stat().st_size < 40_000


def test_names_in_a_chart_are_never_markup() -> None:
    lines = [Line(HOSTILE, [0, 1], [0, 1], "red"), Line("", [0, 1], [1, 0], "red", hint=HOSTILE)]
    axis = Axis(HOSTILE, 0, 1, [0, 1])
    assert "<script" not in to_svg(line_chart(HOSTILE, lines, axis, axis, PAGE), inline=True)


def test_flattened_gives_dotted_names() -> None:
    config = {"a": 1, "b": {"c": [1, {"d": 2}], "e": {}}, "f": None}
    assert list(flattened(config)) == [("a", 1), ("b.c", [1, {"d": 2}]), ("b.e", {}), ("f", None)]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_an_axis_covers_its_data_with_few_ticks(low: float, span: float, most: int) -> None:
    axis = nice_axis("x", low, low + span, most)
    slack = 1e-6 * max(abs(low), span)
    assert axis.low <= low + slack
    assert axis.high >= low + span - slack
    assert 2 <= len(axis.ticks) <= most + 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]), (53, 100, [50, 60, 70, 80, 90, 100]), (0, 0, [0])],
    ids=["loss", "percent", "flat"],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert list(nice_axis("x", low, high).ticks)[: len(ticks)] == ticks


@given(st.lists(st.none() | st.floats(0, 10), min_size=1, max_size=200), st.integers(1, 50))
def test_thinning_keeps_the_mean(ys: list[float | None], most: int) -> None:
    xs, thin = thinned(list(range(len(ys))), ys, most)
    assert len(xs) == len(thin) <= most
    known = [y for y in ys if y is not None]
    assert all(min(known) - 1e-9 <= y <= max(known) + 1e-9 for y in thin if y is not None)
    if len(ys) % most == 0 and len(known) == len(ys):
        means = [y for y in thin if y is not None]
        assert math.isclose(sum(means) / len(thin), sum(known) / len(ys), abs_tol=1e-9)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=21))
def test_names_at_the_right_edge_never_overlap(values: list[float]) -> None:
    lines = [Line(f"task {i}", [0, 1], [0.0, value], "red") for i, value in enumerate(values)]
    chart = line_chart("t", lines, Axis("x", 0, 1, [0, 1]), nice_axis("y", 0, 100), PAGE)
    svg = to_svg(chart, inline=True)
    ys = [float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', svg)]
    assert len(ys) == len(values)
    assert all(b - a >= 12.9 for a, b in pairwise(ys))
    assert max(ys) <= HEIGHT


def test_marks_that_turn_the_direction_of_writing_are_not_shown(run: Any) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    start = run.start(notices=("note\u2066\x00",))
    end = run.end(1, "failed", error="a\u202eb\x1b[2J")
    start.config["name\u202e"] = "x\u202ey\r"
    results = {**end.results, "model": "er\u202e\x9b"}
    write_report(run.folder, start, results, end.error)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    assert "a b [2J" in text


@pytest.mark.parametrize("n_tasks", [1, 2, 15])
def test_a_dashed_line_stands_where_a_task_begins(tmp_path: Path, n_tasks: int) -> None:
    """Also where a task is shorter than `training.log_every`, and so has no row of its own."""
    rows = [
        {"kind": "step", "task": 0, "global_step": 1, "loss": 2.0},
        *(
            {"kind": "evaluation", "task": task, "global_step": 15 * (task + 1), "boundary": True}
            for task in range(n_tasks)
        ),
        {"kind": "evaluation", "task": 0, "global_step": 7, "boundary": False},
        {"kind": "step", "task": n_tasks - 1, "global_step": 15 * n_tasks, "loss": 1.0},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _training(RunData({}, metrics)).count('class="mark"') == n_tasks - 1


def test_the_charts_of_scenarios_have_one_axis(report: Callable[..., Page], run: Any) -> None:
    report()
    html = (run.folder / "report.html").read_text()
    charts = re.findall(r'<svg[^>]*aria-label="accuracy on each task[^>]*>(.+?)</svg>', html, re.S)
    ticks = [re.findall(r'text-anchor="end">([\d.]+)<', chart) for chart in charts]
    assert len(ticks) == 2
    assert ticks[0] == ticks[1]


def test_what_was_typed_is_marked_and_the_command_is_shown(make_run: Callable[..., Any]) -> None:
    run = make_run()
    hydra = run.folder / ".hydra"
    hydra.mkdir(parents=True, exist_ok=True)
    overrides = ["buffer.size=500", "+x.y=" + HOSTILE]
    (hydra / "overrides.yaml").write_text(json.dumps(overrides))
    (run.folder / "code").mkdir(exist_ok=True)
    (run.folder / "code" / "commit.txt").write_text("commit 0123abc\nbranch main\nclean\n")
    run.play(LocalFiles(run.folder))
    html = (run.folder / "report.html").read_text()
    assert re.findall(r'class="typed"><dt>([^<]+)', html) == ["buffer.size"]
    page = Page(run.folder / "report.html")
    assert "perdure train buffer.size=500 '+x.y=<script>" in page.text
    assert "commit 0123abc, branch main, clean" in page.text
    assert "script" not in page.tags


def test_lines_differ_without_their_colors() -> None:
    lines = [Line("a", [0, 1], [1, 2], "red", dash="2 3"), Line("b", [0, 1], [1, 2], "blue")]
    chart = line_chart("t", lines, Axis("x", 0, 1, [0, 1]), Axis("y", 0, 2, [0, 2]), PAGE)
    assert to_svg(chart).count("stroke-dasharray") == 1
