"""Comparing the ends of two runs: equal, different, and without an end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import compare_ends
import pytest

import perdure

pytestmark = pytest.mark.process

SHORT = (
    "model=sgd", "dataset=perm-mnist", "dataset.n_tasks=12", "dataset.iterations=2",
    "backbone.hidden=[4]", "training.eval_batch_size=10000", "tracking.console=off",
    "checkpoint.save=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 12 tasks: twice the same, one with another rate from the start."""
    root = tmp_path_factory.mktemp("ends")
    for name, rate in (("a", 0.1), ("b", 0.1), ("c", 0.2)):
        perdure.train(*SHORT, f"optimizer.lr={rate}", "timestamp=x", folder=root / name)
    return root


def test_the_same_and_another_run(ends: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare_ends.main([str(ends / "a"), str(ends / "b")]) == 0
    assert capsys.readouterr().out == ""
    assert compare_ends.main([str(ends / "a"), str(ends / "c")]) == 1
    assert "task 0.model" in capsys.readouterr().out


def test_each_task_is_compared(ends: Path, tmp_path: Path) -> None:
    """Task 11 has two digits, and a run of fewer tasks has other files."""
    copy = tmp_path / "copy"
    perdure.train(*SHORT, "optimizer.lr=0.1", "timestamp=x", "dataset.stop_after=11", folder=copy)
    found = compare_ends.compare(ends / "a", copy)
    assert "task 11: the checkpoint is in one only" in found


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        pytest.param(lambda run: run.rename(run.with_name("away")), "no such folder", id="away"),
        pytest.param(lambda run: (run / "results.json").unlink(), "is no folder of a run", id="no"),
        pytest.param(
            lambda run: (run / "results.json").write_text(json.dumps({"status": "interrupted"})),
            "is not finished (it is interrupted); resume it with checkpoint.load=",
            id="interrupted",
        ),
        pytest.param(
            lambda run: (run / "results.json").write_text("{"), "damaged", id="damaged-results"
        ),
        pytest.param(
            lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing", id="metrics"
        ),
        pytest.param(
            lambda run: [path.unlink() for path in (run / "checkpoints").glob("*.pt")],
            "has no checkpoint of a task; run it with checkpoint.save=true",
            id="unsaved",
        ),
    ],
)
def test_a_run_without_an_end_is_named_in_a_sentence(
    ends: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: object, says: str
) -> None:

    run = tmp_path / "run"
    shutil.copytree(ends / "a", run, symlinks=True)
    assert callable(break_it)
    break_it(run)
    for order in ([run, ends / "a"], [ends / "a", run]):
        assert compare_ends.main([str(path) for path in order]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
