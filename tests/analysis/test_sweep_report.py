"""report.html of many runs: its numbers, what it warns of, and that nothing read ends it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.analysis.runs import read
from perdure.analysis.sweep_report import write, write_report
from perdure.errors import UserError

HOSTILE = '<script>alert("1")</script>&\'"\u202e'


class Page(HTMLParser):
    """Balanced tags, cells and text, as a browser sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["td"]:
            self.cells.append(data)
        if "style" not in self.open:
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.words))


def test_the_page_has_the_numbers_in_words_tables_and_figures(sweep: Path) -> None:
    path = write(sweep)
    assert path == sweep / "report.html"
    page = Page(path)
    for words in (
        "4 runs of er, derpp on seq-mnist",
        "4 of 4 runs have finished, of 2 settings.",
        "(class-IL): 77.50 ± 3.54 % (2 runs). Next is er with 62.50 ± 3.54 % (2 runs), 15.00",
        "derpp has forgotten 18.75 points",
        "bands: ± 1 standard deviation over 2 seeds",
    ):
        assert words in page.text, words
    assert {"62.50 ± 3.54", "77.50 ± 3.54", "41.25 ± 5.30", "2.0 kB", "5.0 GFLOP"} <= set(
        page.cells
    )
    assert page.tags.count("svg") == 6  # accuracy, retention, forgetting, bytes, 2 confusions
    figures = {path.name for path in (sweep / "figures").iterdir()}
    names = ("accuracy_class_il", "retention_class_il", "forgetting_class_il",
             "pareto_bytes_class_il", "confusion_0", "confusion_1")  # fmt: skip
    assert figures == {f"{name}.{end}" for name in names for end in ("svg", "csv")}


def test_it_calls_nobody_and_links_to_what_is_there(sweep: Path) -> None:
    (sweep / "2" / "report.html").write_text("a run's own")
    page = Page(write(sweep) or Path())
    assert "2/report.html" in page.addresses
    assert "0/report.html" not in page.addresses
    assert "figures/accuracy_class_il.csv" in page.addresses
    assert all((sweep / address).is_file() for address in page.addresses)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)


def test_names_are_never_markup(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    config = {"dataset": {"name": HOSTILE, "epochs": HOSTILE}, "optimizer": {"lr": HOSTILE}}
    for job, model in enumerate((HOSTILE, "er")):
        make_run(tmp_path / str(job), model, typed=(f"x={HOSTILE}{job}",), config=config,
                 class_names=[HOSTILE] * 3, environment={HOSTILE: HOSTILE})  # fmt: skip
    page = Page(write(tmp_path) or Path())
    assert "script" not in page.tags
    assert "\u202e" not in page.text
    for figure in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text()


def test_what_a_reader_must_know_is_said(sweep: Path, make_run: Callable[..., Path]) -> None:
    make_run(sweep / "4", "gdumb", seed=7, split="validation",
             resumes=[{"from": "a.pth", "at": "now", "fork": False}])  # fmt: skip
    make_run(sweep / "5", "er", seed=2, status="interrupted")
    make_run(sweep / "6", "er", seed=3)
    (sweep / "6" / "results.json").write_text("{")
    page = Page(write(sweep) or Path())
    for words in (
        "5 of 7 runs have finished, of 3 settings.",
        "1 run interrupted: 5; left out of every number here.",
        "1 run damaged: 6;",
        "Groups have different numbers of runs: 1 to 2.",
        "One run alone has no spread: gdumb.",
        "Accuracies are on validation examples",
        "1 run resumed or branched from a checkpoint: 4;",
    ):
        assert words in page.text, words


def test_a_difference_within_the_spread_is_called_one(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    for job, (model, end) in enumerate([("a", 0.3), ("a", 0.5), ("b", 0.32), ("b", 0.52)]):
        make_run(tmp_path / str(job), model, job % 2, end)
    text = Page(write(tmp_path) or Path()).text
    assert "a difference of 1.00 points, within one standard deviation." in text


def test_the_protocol_names_what_varies_and_the_command_repeats(sweep: Path) -> None:
    overrides = {
        "task": ["model=er,derpp", "seed=0,1", "x=a b"],
        "hydra": ["hydra.sweep.dir=/x", "hydra.mode=MULTIRUN", "hydra/launcher=local"],
    }
    (sweep / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": overrides}}))
    text = Page(write(sweep) or Path()).text
    assert "perdure train -m model=er,derpp seed=0,1 'x=a b' hydra/launcher=local" in text
    assert re.search(r"learning rate 0\.1 ", text)
    assert "seed of the benchmark 0, 1" in text
    assert "torch 2.9" in text


@pytest.mark.parametrize(
    "content", ["", "[]", "hydra: 3", "hydra: {overrides: []}", "&a [*a", "\0"]
)
def test_without_a_sweep_each_run_s_command_is_there(sweep: Path, content: str) -> None:
    (sweep / "multirun.yaml").write_text(content)
    text = Page(write(sweep) or Path()).text
    assert "perdure train model=derpp seed=1" in text


def test_nothing_to_report_is_no_error(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    assert write(tmp_path) is None
    make_run(tmp_path / "0", status="running")
    page = Page(write(tmp_path) or Path())
    assert "None of 1 runs has finished." in page.text
    assert not (tmp_path / "figures").exists()


def test_a_run_s_own_report_is_never_replaced(sweep: Path, tmp_path: Path) -> None:
    runs = read([sweep])
    with pytest.raises(UserError, match="is the folder of one run"):
        write_report(sweep / "0", runs)
    assert write(sweep / "0") is None
    (sweep / "figures").symlink_to(tmp_path)
    assert write(sweep) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text("ab1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1"), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("accuracy_matrix", "average_accuracy", "class_names", "task_classes", "confusion", "cost",
        "seconds", "environment", "resumes", "split", "training", "status", "seed")  # fmt: skip


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(KEYS), JSON)
def test_whatever_a_run_s_files_hold_a_page_is_written(sweep: Path, key: str, value: Any) -> None:
    path = sweep / "1" / "results.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), key: value}))
    try:
        assert write(sweep) is not None
    finally:
        path.write_text(before)


def test_the_published_row_stands_beside_what_was_measured(
    tmp_path: Path, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from perdure.config.tables import Figure
    from perdure.tracking import report_published

    row = SimpleNamespace(
        note="", figures=[Figure("average_accuracy.class_il", 70.0, "paper", 1.5, 5)]
    )
    table = SimpleNamespace(source="A and B 2020")
    choice = SimpleNamespace(
        setting=SimpleNamespace(name="a/b/c", row=row, table=table), differences=()
    )
    monkeypatch.setattr(report_published, "choice_of", lambda config: choice)
    for seed in (0, 1):
        make_run(tmp_path / str(seed), seed=seed, end=0.3 + 0.1 * seed)
    page = Page(write(tmp_path) or Path())
    assert {"70.00 ± 1.50 (5 runs)", "62.50 ± 3.54 (2 runs)", "-7.50"} <= set(page.cells)
    assert "a/b/c: A and B 2020." in page.text
    assert "read in the paper" in page.text


@pytest.mark.process
def test_it_imports_no_torch(sweep: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from perdure.analysis.sweep_report import write\n"
        "assert write(Path(sys.argv[1]))\n"
        "print([m for m in ('torch', 'matplotlib', 'scipy', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
