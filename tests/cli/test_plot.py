"""`perdure plot RUN_FOLDER`: any figure of a run in any format, with its numbers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.analysis import figures
from perdure.cli.plot import MANY, main

RESULTS: dict[str, Any] = {
    "model": "er",
    "dataset": "seq-fmnist",
    "seed": 3,
    "accuracy_matrix": {"class_il": [[0.9], [0.5, 0.8]]},
    "average_accuracy": {"class_il": 0.65},
    "class_names": ["Bag", "Coat"],
    "confusion": {"classes": [0, 1], "counts": [[8, 2], [5, 5]]},
}
STARTS = {"pdf": b"%PDF-", "svg": b"<svg", "png": b"\x89PNG"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(RESULTS))
    rows = [{"kind": "step", "task": 0, "global_step": i, "loss": 1 / i} for i in range(1, 9)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_every_figure_in_every_format_with_its_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    before = sorted(folder.iterdir())
    out = tmp_path / "paper" / "figures"
    assert main([str(folder), "--format", "pdf", "svg", "png", "--out", str(out)]) == 0
    names = {"accuracy_matrix", "accuracy", "retention", "forgetting", "loss", "confusion"}
    written = {path.name for path in out.iterdir()}
    assert written == {f"{name}.{end}" for name in names for end in (*STARTS, "csv")}
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == written
    for path in out.iterdir():
        assert path.read_bytes().startswith(STARTS.get(path.suffix[1:], b""))
    rows = list(csv.reader((out / "confusion.csv").open()))
    assert rows[1:3] == [["Bag", "Bag", "8"], ["Bag", "Coat", "2"]]
    assert len(list(csv.reader((out / "loss.csv").open()))) == 9
    assert sorted(folder.iterdir()) == before


def test_without_a_place_it_is_the_run_s_own_figures(folder: Path) -> None:
    assert main([str(folder), "--format", "svg", "--only", "accuracy"]) == 0
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "accuracy.svg",
        "accuracy.csv",
    }


def test_a_run_without_an_evaluation_has_nothing_to_draw(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "results.json").write_text('{"accuracy_matrix": {"class_il": []}}')
    assert main([str(folder), "--only", "accuracy", "confusion"]) == 2
    sentence = capsys.readouterr().err
    assert sentence == f"perdure: {folder}: has nothing to draw yet of accuracy, confusion\n"
    assert not (folder / "figures").exists()


def test_another_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no folder of a run" in capsys.readouterr().err


def test_nothing_is_written_through_a_link(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "figures").symlink_to(tmp_path / "elsewhere")
    assert main([str(folder), "--format", "svg"]) == 2
    assert "a link out of the run's folder" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text("ab1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1"), inner, max_size=3),
    max_leaves=8,
)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["accuracy_matrix", "average_accuracy", "class_names", "confusion", "seed",
                     "buffer_size", "buffer_classes", "task_classes", "per_class_accuracy",
                     ("confusion", "counts"), ("confusion", "classes"),
                     ("accuracy_matrix", "class_il")]),
    JSON,
)  # fmt: skip
def test_results_that_no_run_writes_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], key: str | tuple[str, str], value: Any
) -> None:
    results = json.loads(json.dumps(RESULTS))
    if isinstance(key, tuple):
        results[key[0]][key[1]] = value
    else:
        results[key] = value
    (folder / "results.json").write_text(json.dumps(results))
    capsys.readouterr()
    status = main([str(folder), "--format", "svg"])
    error = capsys.readouterr().err
    assert (status, error.count("\n")) in ((0, 0), (2, 1))
    assert status == 0 or error.startswith(f"perdure: {folder}")


# --- many runs ------------------------------------------------------------------------------------


@pytest.fixture
def sweep(folder: Path, tmp_path: Path) -> Path:
    """Two seeds of er and of derpp."""
    for job, (model, seed) in enumerate([("er", 0), ("er", 1), ("derpp", 0), ("derpp", 1)]):
        run = tmp_path / "sweep" / str(job)
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "overrides.yaml").write_text(f"- model={model}\n- seed={seed}\n")
        rows = [[0.9], [0.4 + 0.1 * job, 0.8]]
        results = {
            **RESULTS,
            "model": model,
            "seed": seed,
            "status": "finished",
            "accuracy_matrix": {"class_il": rows, "task_il": rows},
            "average_accuracy": {"class_il": 0.6 + 0.05 * job, "task_il": 0.9},
            "seconds": {"total": 10.0 + job},
        }
        (run / "results.json").write_text(json.dumps(results))
    return tmp_path / "sweep"


def test_the_names_of_figures_are_those_that_there_are() -> None:
    assert tuple(figures.FIGURES) == MANY


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("accuracy", {"accuracy_class_il", "accuracy_task_il"}),
        ("forgetting", {"forgetting_class_il", "forgetting_task_il"}),
        ("pareto", {"pareto_seconds_class_il", "pareto_seconds_task_il"}),
        ("confusion", {"confusion_0", "confusion_1"}),
    ],
)
def test_a_figure_of_many_runs_lies_in_the_sweep(
    sweep: Path, capsys: pytest.CaptureFixture[str], name: str, files: set[str]
) -> None:
    assert main([name, str(sweep), "--format", "svg", "--columns", "1"]) == 0
    written = {path.name for path in (sweep / "figures").iterdir()}
    assert written == {f"{file}.{end}" for file in files for end in ("svg", "csv")}
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == written
    svg = (sweep / "figures" / f"{min(files)}.svg").read_text()
    width = float(re.findall(r'width="([\d.]+)pt"', svg)[0])
    assert width == 244 or (name == "confusion" and width < 244)  # two classes need less
    assert (">er<" in svg) == (name != "confusion")


def test_groups_scenarios_and_places_are_chosen(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    words = ["accuracy", f"{sweep}/0", f"{sweep}/[23]", "--by", "seed", "--scenario", "task_il"]
    assert main([*words, "--format", "png", "--columns", "2", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"accuracy_task_il.png", "accuracy_task_il.csv"}
    rows = list(csv.DictReader((out / "accuracy_task_il.csv").open()))
    assert [(r["group"], r["runs"]) for r in rows if r["after_task"] == "0"] == [
        ("seed=0", "2"), ("seed=1", "1"),
    ]  # fmt: skip
    assert not (sweep / "figures").exists()


def test_a_pdf_of_many_runs_embeds_its_fonts_and_has_the_column_s_width(sweep: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["accuracy", str(sweep), "--columns", "1", "--scenario", "class_il"]) == 0
    pdf = (sweep / "figures" / "accuracy_class_il.pdf").read_bytes()
    assert re.findall(rb"/MediaBox \[ 0 0 (\d+)", pdf) == [b"244"]
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_a_run_s_figures_fit_a_column_too(folder: Path) -> None:
    assert main([str(folder), "--format", "svg", "--columns", "1"]) == 0
    for path in (folder / "figures").glob("*.svg"):
        svg = path.read_text()
        assert float(re.findall(r'width="([\d.]+)pt"', svg)[0]) <= 244
        assert "seq-fmnist" not in svg  # a paper has its own caption


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["accuracy", "{0}/0", "{0}/1"], "--out: must name a folder"),
        (["accuracy", "{0}/*"], "--out: must name a folder"),
        (["orders", "{0}"], "have nothing to draw of orders"),
        (["accuracy", "{0}", "--by", "sead"], "--by sead: no run has this key"),
        (["accuracy", "{0}/nowhere", "--out", "{0}"], "there is no run"),
    ],
    ids=["several", "glob", "nothing", "key", "no-run"],
)
def test_mistakes_are_one_sentence(
    sweep: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([word.format(sweep) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perdure: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_figures_that_are_a_link_stay_one(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sweep / "figures").symlink_to(tmp_path / "elsewhere")
    assert main(["accuracy", str(sweep), "--format", "svg"]) == 2
    assert "a link: nothing is written through it" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.process
def test_plotting_imports_no_torch(sweep: Path) -> None:
    code = (
        "import sys; from perdure.cli.plot import main\n"
        "assert main(['accuracy', sys.argv[1], '--format', 'svg', 'png']) == 0\n"
        "assert main([sys.argv[1] + '/0', '--format', 'svg']) == 0\n"
        "print([m for m in ('torch', 'matplotlib', 'scipy') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
