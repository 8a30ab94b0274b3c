"""`perdure plot RUN_FOLDER`: any figure of a run in any format, with its numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.cli.plot import main

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
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["accuracy_matrix", "average_accuracy", "class_names", "confusion", "seed",
                     "buffer_size", ("confusion", "counts"), ("confusion", "classes"),
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
