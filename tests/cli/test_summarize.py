"""Means over seeds, by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from perdure.cli.summarize import main


def write(sweep: Path, job: str, accuracy: float | None, *overrides: str) -> None:
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


def test_a_row_is_a_setting(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep)]) == 0
    heads, _, er, sgd = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in heads.split("|")[1:-1]] == [
        "setting", "runs", "average_accuracy.class_il", "average_accuracy.task_il",
        "forgetting.class_il",
    ]  # fmt: skip
    assert [cell.strip() for cell in er.split("|")[1:-1]] == [
        "model=er", "2", "60.00 ± 14.14", "100.00 ± 0.00", "25.00 ± 0.00",
    ]  # fmt: skip
    assert [cell.strip() for cell in sgd.split("|")[1:-1]] == [
        "model=sgd", "1", "20.00", "100.00", "25.00",
    ]  # fmt: skip
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    assert len(rows) == 6
    assert rows[0]["setting"] == "model=er"
    assert float(rows[0]["mean"]) == pytest.approx(0.6)
    assert float(rows[0]["std"]) == pytest.approx(0.1414, abs=1e-4)


def test_costs_have_their_units(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for job, scale in (("0", 1), ("1", 3)):
        file = sweep / job / "results.json"
        cost = {"bytes": {"total": 500_000 * scale}, "flops": 10**9 * scale}
        more = {"cost": cost, "cpu_seconds": {"total": 2.0 * scale}}
        file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    assert main([str(sweep)]) == 0
    heads, _, er, sgd = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
    )
    assert heads[-3:] == ["bytes", "flops", "cpu_seconds"]
    assert er[-3:] == ["1.0 MB", "2.0 GFLOP", "4.0 s"]
    assert sgd[-3:] == ["", "", ""]
    rows = {row["metric"]: row for row in csv.DictReader((sweep / "summary.csv").open())}
    assert float(rows["bytes"]["mean"]) == 10**6


def test_other_keys_can_be_averaged_over(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--over", "seed", "model"]) == 0
    assert "| all " in capsys.readouterr().out


def test_what_is_missing_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(sweep, "10", None, "model=sgd", "seed=1", "dataset.epochs=2")
    assert main([str(sweep)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{sweep / '10'}: not started"


def test_a_folder_without_jobs(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 2
