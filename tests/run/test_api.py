"""Perdure from Python, without its command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from perdure.checkpoint.core.format import read
from perdure.errors import DivergenceError, UserError
from perdure.io.atomic import _beside
from perdure.run.folder import RunFolder

pytestmark = pytest.mark.process

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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        pytest.param("nonsense=1", "nonsense: there is no such key", id="key"),
        pytest.param("+model.typo=1", "model.typo=1: model takes no options", id="option"),
        pytest.param("~model.alpha", "does not exist", id="deletion"),
        pytest.param("model=err", "there is no such model .did you mean er", id="choice"),
        pytest.param("experiment=foo", "no such published setting", id="experiment"),
        pytest.param("model=[er", "cannot be read as an override", id="grammar"),
        pytest.param("model", "cannot be read as an override", id="no-value"),
        pytest.param("model=er,sgd", "^model=er,sgd: holds several values; give one", id="sweep"),
        pytest.param("seed=null", "^seed=null: must have a value$", id="null"),
        pytest.param("training.log_every=null", "^training.log_every=null: must", id="null-below"),
        pytest.param("seed=1.5", "seed: Value '1.5'", id="type"),
        pytest.param("dataset.batch_size=[6,4]", "dataset.batch_size: Value", id="list"),
        pytest.param("dataset.n_tasks=[6,4]", r"dataset.class_sizes=\[6,2,2\]", id="list-of-sizes"),
        pytest.param("seed=${nope}", "nope", id="interpolation"),
        pytest.param("backbone.hidden=3", "backbone.hidden=3: must be a list", id="option-type"),
        pytest.param("checkpoint.load=nowhere.pt", "nowhere.pt: no such file", id="file"),
        pytest.param("optimizer._target_=a.b", "cannot be imported", id="class"),
        pytest.param("scheduler._target_=a.b", "cannot be imported", id="scheduler"),
        pytest.param("device=nothing", "device=nothing: not usable here", id="device"),
        pytest.param("--help", "takes overrides, and no flag but --config-dir", id="flag"),
        pytest.param("hydra.run.dir=x", "folder='…'", id="folder"),
        pytest.param(["model=er"], "overrides are text, one an argument", id="list-of-overrides"),
        pytest.param(3, "overrides are text", id="number"),
    ],
)
def test_every_mistake_is_a_user_error_of_one_sentence(override: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        perdure.train(override, *SHORT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"folder=.*{place}: cannot write there"):
        perdure.train("model=sgd", *SHORT, folder=tmp_path / place)
    with pytest.raises(UserError, match="folder=3: must be a path"):
        perdure.train("model=sgd", *SHORT, folder=3)  # type: ignore[arg-type]


def test_a_diverging_run_without_a_folder_ends_in_its_own_error() -> None:
    for rate in ("inf", "1e30"):
        with pytest.raises(DivergenceError, match="training diverged"):
            perdure.train("model=sgd", *SHORT, f"optimizer.lr={rate}")


PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def test_the_object_example_of_the_page_gives_the_same_numbers_each_time() -> None:
    """In processes of their own, whose generators torch seeds by chance; and those of a run."""
    (example,) = re.findall(r"```python\n(from pathlib.*?)```", PAGE, re.DOTALL)
    program = example.replace("seed=0)", "seed=0, iterations=100, stop_after=2)")
    assert program != example
    program += "\nimport json; print(json.dumps(results['accuracy_matrix']))"
    printed = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert printed[0].stdout == printed[1].stdout
    results = perdure.train(
        "model=er", "optimizer.lr=0.1", "recipe=none",
        "dataset.iterations=100", "dataset.stop_after=2", "tracking.console=off",
    )  # fmt: skip
    assert json.loads(printed[0].stdout) == results["accuracy_matrix"]


def test_a_run_removes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    left = RunFolder(tmp_path / "run")
    left.checkpoints.mkdir(parents=True)
    temporaries = [_beside(left.results), _beside(left.checkpoints / "best.pth")]
    for temporary in temporaries:
        temporary.touch()
    perdure.train("model=sgd", *SHORT, "dataset.iterations=1", folder=left.path)
    assert not any(temporary.exists() for temporary in temporaries)
