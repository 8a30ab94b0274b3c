"""metrics.csv: the values of metrics.jsonl, the same after a kill."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from perdure.tracking.files import LocalFiles
from perdure.tracking.metrics_csv import COLUMNS, MetricsCSV, table_of


def both(folder: Path) -> list[Any]:
    return [LocalFiles(folder), MetricsCSV(folder)]


def deliver(recorders: list[Any], *events: Any) -> None:
    for event in events:
        for recorder in recorders:
            recorder.receive(event)


def test_every_number_of_the_rows_is_in_the_table(run: Any) -> None:
    recorders = both(run.folder)
    deliver(recorders, run.start(), *run.task(0), *run.task(1), run.end(2))
    with (run.folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    losses = [line for line in table if line["metric"] == "loss"]
    assert [float(line["value"]) for line in losses] == [row["loss"] for row in steps]
    assert [int(line["global_step"]) for line in losses] == [row["global_step"] for row in steps]
    last = [row for row in rows if row["kind"] == "evaluation"][-1]
    for task, value in enumerate(last["accuracy"]["class_il"]):
        (line,) = [
            line
            for line in table
            if line["metric"] == f"accuracy.class_il.{task}"
            and line["global_step"] == str(last["global_step"])
        ]
        assert float(line["value"]) == value


def test_a_resumed_run_ends_with_the_same_bytes(run: Any) -> None:
    recorders = both(run.folder)
    deliver(recorders, run.start(), *run.task(0))
    state = recorders[0].state_dict()
    deliver(recorders, *run.task(1), *run.task(2), run.end(3))
    expected = (run.folder / "metrics.csv").read_bytes()
    # A process that was killed within task 1 wrote rows that are trained, and written, again.
    again = both(run.folder)
    again[0].load_state_dict(state)
    deliver(again, run.start(1), *run.task(1), *run.task(2), run.end(3))
    assert (run.folder / "metrics.csv").read_bytes() == expected


def test_a_run_that_failed_before_its_start_writes_nothing(run: Any) -> None:
    deliver(both(run.folder), run.end(0, "failed", error="no data"))
    assert not (run.folder / "metrics.csv").exists()


def test_a_row_in_lines() -> None:
    row = {
        "kind": "step", "task": 1, "epoch": 0, "step": 5, "global_step": 25, "loss": None,
        "lr": 0.1, "logged": {"kd": 0.5}, "flag": True, "split": "test", "clock": {"time": 1.0},
    }  # fmt: skip
    assert list(table_of(row)) == [
        ("step", 1, 0, 25, "lr", 0.1),
        ("step", 1, 0, 25, "logged.kd", 0.5),
    ]
    assert len(COLUMNS) == 6
