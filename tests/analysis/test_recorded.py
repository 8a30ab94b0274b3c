"""Metrics of the catalog for many runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs_of import make_run

from perdure.analysis.recorded import families, with_recorded
from perdure.analysis.runs import read

NAMES = ["learning_accuracy", "stability_gap"]


def test_metrics_of_the_catalog_beside_those_of_results_json(tmp_path: Path) -> None:
    matrix = {"accuracy_matrix": {"class_il": [[0.9], [0.5, 0.7]]}, "n_tasks": 2}
    make_run(tmp_path / "a", "er", 0, accuracy=0.6, results=matrix)
    (run,) = with_recorded(read([tmp_path]), NAMES)
    assert run.metrics["learning_accuracy.class_il"] == pytest.approx(0.8)
    assert run.metrics["average_accuracy.class_il"] == 0.6
    assert "stability_gap.class_il" not in run.metrics  # without evaluations within tasks


@pytest.mark.parametrize("content", ["{}", '{"accuracy_matrix": {"class_il": 3}, "n_tasks": 2}'])
def test_a_run_that_cannot_be_read_so_stays_as_it_is(tmp_path: Path, content: str) -> None:
    make_run(tmp_path / "a", "er", 0, results=json.loads(content))
    runs = read([tmp_path])
    assert with_recorded(runs, NAMES) == runs


def test_runs_at_work_are_not_read(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "er", 0, results={"status": "running"})
    runs = read([tmp_path])
    assert with_recorded(runs, NAMES)[0] is runs[0]


def test_which_metrics_are_the_catalog_s() -> None:
    metrics = ["stability_gap.class_il", "cost.bytes", "stability_gap.task_il", "typo.class_il"]
    assert families(metrics) == ["stability_gap"]
