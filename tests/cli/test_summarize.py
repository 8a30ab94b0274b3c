"""`perdure summarize`: what is printed and written, and mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from runs_of import make_run

from perdure.cli.summarize import main


def write(sweep: Path, job: str, accuracy: float | None, *overrides: str) -> None:
    """A run without a stored configuration, as earlier versions left them."""
    (sweep / job / ".hydra").mkdir(parents=True)
    (sweep / job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if accuracy is not None:
        results = {
            "status": "finished",
            "average_accuracy": {"class_il": accuracy, "task_il": 1.0},
            "forgetting": {"class_il": 0.25, "task_il": None},
        }
        (sweep / job / "results.json").write_text(json.dumps(results))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    write(tmp_path, "0", 0.5, "threads=1", "timestamp=x", "model=er", "seed=0", "dataset.epochs=2")
    write(tmp_path, "1", 0.7, "threads=1", "timestamp=x", "model=er", "seed=1", "dataset.epochs=2")
    write(tmp_path, "2", 0.2, "timestamp=y", "model=sgd", "seed=0", "dataset.epochs=2")
    return tmp_path


def cells(line: str) -> list[str]:
    return [cell.strip(" *_") for cell in line.split("|")[1:-1]]


def failing(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_a_row_is_a_setting(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep)]) == 0
    heads, _, er, sgd, *notes = capsys.readouterr().out.splitlines()
    assert cells(heads) == [
        "model", "runs", "average_accuracy.class_il", "average_accuracy.task_il",
        "forgetting.class_il",
    ]  # fmt: skip
    assert cells(er) == ["er", "2", "60.00 ± 14.14", "100.00 ± 0.00", "25.00 ± 0.00"]
    assert cells(sgd) == ["sgd", "1", "20.00", "100.00", "25.00"]
    assert "Percent, mean ± sample standard deviation over runs." in notes
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    assert len(rows) == 6
    assert rows[0]["setting"] == "model=er"
    assert float(rows[0]["mean"]) == pytest.approx(0.6)
    assert (sweep / "summary.md").is_file()
    assert (sweep / "summary.tex").is_file()


def test_other_keys_can_be_averaged_over(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--over", "seed", "model"]) == 0
    assert "| all " in capsys.readouterr().out


def test_what_is_missing_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(sweep, "10", None, "model=sgd", "seed=1", "dataset.epochs=2")
    assert main([str(sweep)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{sweep / '10'}: not started"
    assert main([str(sweep), "--format", "csv"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("setting,metric,runs,mean,std,")
    assert shown.err == f"{sweep / '10'}: not started\n"


def test_any_set_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "a" / str(seed), "er", seed, accuracy=0.5)
        make_run(tmp_path / "b" / str(seed), "er", seed + 2, accuracy=0.6)
        make_run(tmp_path / "c" / str(seed), "si", seed, accuracy=0.4)
    places = [f"{tmp_path}/[ab]", str(tmp_path / "c" / "1")]
    words = ["--by", "model,buffer.size", "--metric", "average_accuracy.class_il", "cost.bytes"]
    assert main([*places, *words]) == 0
    _, _, er, si, *_ = capsys.readouterr().out.splitlines()
    assert cells(er) == ["er", "200", "4", "55.00 ± 5.77", "1.0 kB"]
    assert cells(si) == ["si", "200", "1", "40.00", "1.0 kB"]
    assert not list(tmp_path.rglob("summary.*"))  # they are no one sweep
    assert main([str(tmp_path), "--where", "model=si", "--metric", "all"]) == 0
    assert "cost.cpu_seconds" in capsys.readouterr().out


def test_one_run_is_no_sweep(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "er", 0)
    assert main([str(tmp_path / "run")]) == 0
    assert not list(tmp_path.rglob("summary.*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--by", "modle"], "--by modle: no run has this key (did you mean model?)"),
        (["--where", "model"], "model: must be a condition, key=value"),
        (["--where", "model=x"], "model=x: no run has this value; must be er, sgd"),
        (["--metric", "forgetting"], "forgetting: no finished run has this metric"),
        (["--per", "forgetting.class_il"], "--per forgetting.class_il: is no cost"),
        (["--by", "dataset.epochs"], "dataset.epochs=2: its runs differ in model too (er, sgd)"),
    ],
)
def test_mistakes(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert failing(str(sweep), *arguments) == 2
    assert f"perdure: {sentence}" in capsys.readouterr().err


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(str(tmp_path)) == 2
    assert "there is no run" in capsys.readouterr().err
    assert failing(str(tmp_path), "--level", "2") == 2
