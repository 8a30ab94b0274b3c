"""A checkpoint whose counts are tables, eight times over: a fork of it counts on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import perdure

RUN = Path(__file__).parents[1] / "fixtures" / "format2" / "evaluated"


def test_its_evaluations_count_on(tmp_path: Path) -> None:
    """What was measured before stays; the rest is trained with today's random draws."""
    wanted = json.loads((RUN / "results.json").read_text())
    run = shutil.copytree(RUN, tmp_path / "run")
    found = perdure.train(
        f"checkpoint.load={run}", "checkpoint.fork=true", "tracking.console=off",
        folder=tmp_path / "fork",
    )  # fmt: skip
    tasks = len(wanted["accuracy_matrix"]["class_il"])
    for name, matrix in found["accuracy_matrix"].items():
        assert [len(row) for row in matrix] == list(range(1, tasks + 1))
        assert matrix[0] == wanted["accuracy_matrix"][name][0]
        assert found["average_accuracy"][name] == pytest.approx(sum(matrix[-1]) / tasks)
        drops = [
            max(matrix[i][j] for i in range(j, tasks - 1)) - matrix[-1][j] for j in range(tasks - 1)
        ]
        assert found["forgetting"][name] == pytest.approx(sum(drops) / len(drops))
    # Of the evaluation of the untrained network, which the file alone holds.
    assert found["forward_transfer"].keys() == wanted["forward_transfer"].keys()
    for name, value in found["forward_transfer"].items():
        assert value is not None, name
