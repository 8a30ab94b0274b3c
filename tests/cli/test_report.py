"""`perdure report FOLDER…`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.cli.report import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        folder = tmp_path / "sweep" / str(seed)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- model=er\n- seed={seed}\n")
        results = {"status": "finished", "model": "er", "average_accuracy": {"class_il": 0.5},
                   "accuracy_matrix": {"class_il": [[0.9], [0.4, 0.6]]}}  # fmt: skip
        (folder / "results.json").write_text(json.dumps(results))
    return tmp_path / "sweep"


def test_the_report_lies_in_the_folder_or_where_it_is_asked_for(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs)]) == 0
    assert capsys.readouterr().out == f"{runs / 'report.html'}\n"
    out = tmp_path / "paper"
    assert main([str(runs / "0"), f"{runs}/1", "--by", "seed", "--out", str(out)]) == 0
    assert "seed=0" in (out / "report.html").read_text()
    assert (out / "figures" / "accuracy_class_il.csv").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{runs}/0", "{runs}/1"], "--out: must name a folder"),
        (["{runs}/*"], "--out: must name a folder"),
        (["{runs}/0"], "is the folder of one run"),
        (["{runs}", "--by", "sead"], "--by sead: no run has this key"),
        (["{runs}/nowhere", "--out", "{runs}/x"], "there is no run"),
    ],
    ids=["several", "glob", "one-run", "key", "no-run"],
)
def test_mistakes_are_one_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([word.format(runs=runs) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("perdure: ")
    assert error.count("\n") == 1
    assert sentence in error
