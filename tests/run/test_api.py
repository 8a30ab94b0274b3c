"""Perdure from Python, without its command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import perdure
from perdure.checkpoint.core.format import read
from perdure.errors import UserError
from perdure.io.atomic import _beside
from perdure.run.folder import RunFolder

SHORT = ("dataset.iterations=20", "tracking.console=off", "dataset.stop_after=2")


def test_train_gives_the_results(tmp_path: Path) -> None:
    results = perdure.train("model=sgd", *SHORT, folder=tmp_path / "run")
    assert results["status"] == "finished"
    assert (tmp_path / "run" / "results.json").is_file()
    assert perdure.train("model=sgd", *SHORT)["accuracy_matrix"] == results["accuracy_matrix"]


def test_a_run_resumes_in_its_folder(tmp_path: Path) -> None:
    whole = perdure.train("model=er", *SHORT, "checkpoint.save=true", folder=tmp_path / "whole")
    perdure.train(
        "model=er", *SHORT, "checkpoint.save=true", "dataset.stop_after=1", folder=tmp_path / "part"
    )
    rest = perdure.train(
        f"checkpoint.load={tmp_path / 'part'}", "dataset.stop_after=2", "checkpoint.save=true"
    )
    assert rest["accuracy_matrix"] == whole["accuracy_matrix"]
    ends = [
        read(next((tmp_path / name / "checkpoints").glob("*_1.pt"))) for name in ("whole", "part")
    ]
    for name, value in ends[0]["model"].items():
        assert torch.equal(value, ends[1]["model"][name])


def test_weights_alone_start_a_fresh_run(tmp_path: Path) -> None:
    perdure.train("model=er", *SHORT, "checkpoint.save=true", folder=tmp_path / "run")
    light = tmp_path / "run" / "checkpoints" / "best.pth"
    warm = perdure.train(
        "model=sgd", *SHORT, "dataset.iterations=1", "optimizer.lr=0.0", f"checkpoint.load={light}"
    )
    cold = perdure.train("model=sgd", *SHORT, "dataset.iterations=1", "optimizer.lr=0.0")
    assert warm["average_accuracy"]["task_il"] > cold["average_accuracy"]["task_il"] + 0.1


def test_a_mistake_is_a_user_error() -> None:
    with pytest.raises(UserError, match="buffer=none"):
        perdure.train("model=er", "buffer=none")


def test_a_run_removes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    left = RunFolder(tmp_path / "run")
    left.checkpoints.mkdir(parents=True)
    temporaries = [_beside(left.results), _beside(left.checkpoints / "best.pth")]
    for temporary in temporaries:
        temporary.touch()
    perdure.train("model=sgd", *SHORT, "dataset.iterations=1", folder=left.path)
    assert not any(temporary.exists() for temporary in temporaries)
