"""A checkpoint whose counts are tables, eight times over, continues to the same results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bits import key

import perdure

RUN = Path(__file__).parents[1] / "fixtures" / "format2" / "evaluated"
MADE_ON = "torch 2.13.0+cpu, AVX512, x86_64 AuthenticAMD"
METRICS = (
    "accuracy_matrix", "average_accuracy", "average_anytime_accuracy", "backward_transfer",
    "forgetting", "forward_transfer", "min_accuracy", "worst_case_accuracy",
)  # fmt: skip


def test_its_evaluations_count_on(tmp_path: Path) -> None:
    wanted = json.loads((RUN / "results.json").read_text())
    run = shutil.copytree(RUN, tmp_path / "run")
    found = perdure.train(f"checkpoint.load={run}", "tracking.console=off")
    rows = {name: matrix[0] for name, matrix in wanted["accuracy_matrix"].items()}
    assert {name: matrix[0] for name, matrix in found["accuracy_matrix"].items()} == rows
    # Forward transfer is from the evaluation of the untrained network, which the file holds alone.
    slack = 0.0 if key() == MADE_ON else 0.05
    for metric in METRICS[1:]:
        assert found[metric] == pytest.approx(wanted[metric], abs=slack), metric
