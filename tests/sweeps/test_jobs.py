"""Commands, names and outcomes of a sweep's jobs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from perdure.errors import UserError
from perdure.sweeps.jobs import (
    Job,
    Outcome,
    command,
    command_to_continue,
    finished,
    name_of,
    require_same_job,
)
from perdure.sweeps.process import resuming_command


def job_in(folder: Path, *overrides: str) -> Job:
    return Job(3, overrides, " ".join(overrides), folder, ("python", *overrides), folder)


def stored(folder: Path, *overrides: str) -> None:
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))


@pytest.mark.parametrize(
    ("overrides", "typed", "name"),
    [
        (["model=er", "seed=1"], ["model=er", "seed=0,1"], "seed=1"),
        (["model=er", "seed=1"], ["model=er,sgd", "seed=0,1"], "model=er seed=1"),
        (["checkpoint.every=2\\ steps", "seed=0"], ["checkpoint.every=2 steps", "seed=0,1"],
         "seed=0"),
        (["search=x", "optimizer.lr=0.0512345678"], ["search=x"], "optimizer.lr=0.05123"),
        (["seed=1"], ["seed=1"], "seed=1"),
    ],
    ids=["one", "two", "quoted", "drawn", "nothing varies"],
)  # fmt: skip
def test_a_job_is_called_by_what_varies(overrides: list[str], typed: list[str], name: str) -> None:
    assert name_of(overrides, typed) == name


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (0, "finished"),
        (75, "interrupted"),
        (130, "interrupted"),
        (-signal.SIGTERM, "interrupted"),
        (-signal.SIGKILL, "failed"),
        (1, "failed"),
        (2, "failed"),
    ],
)
def test_the_result_of_an_exit_status(status: int, result: str) -> None:
    assert Outcome(status).result == result


def test_only_a_finished_run_has_a_value(tmp_path: Path) -> None:
    assert finished(tmp_path) is None
    results = {"status": "interrupted", "average_accuracy": {"class_il": 0.5, "task_il": 0.9}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert finished(tmp_path) is None
    (tmp_path / "results.json").write_text(json.dumps({**results, "status": "finished"}))
    assert finished(tmp_path) == 0.5


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(["seed=0", "model=er"], id="other order"),
        pytest.param(["model=er", "seed=0", "checkpoint.resume=auto"], id="now not resuming"),
        pytest.param(["threads=1", "timestamp=20260101-000000", "model=er", "seed=0"], id="place"),
        pytest.param(["model=er", "seed=0", "training.log_every=7"], id="logging"),
        pytest.param(["model=er", "seed=0", "training.eval_batch_size=9"], id="evaluation"),
    ],
)
def test_a_job_may_be_resumed_in_its_folder(tmp_path: Path, before: list[str]) -> None:
    stored(tmp_path, *before)
    require_same_job(job_in(tmp_path, "model=er", "seed=0", "tracking.console=off"))


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        (["model=er", "seed=1"], "holds job 3 with seed=1, which would now have seed=0"),
        (["seed=0"], "with nothing more, which would now have model=er"),
        (["seed=0", "model=er", "+x=2"], r"with \+x=2, which would now have nothing more"),
        (["seed=0", "model=er", "dataset.stop_after=1"], "with dataset.stop_after=1"),
        (["seed=0", "model=er", "recipe=none"], "with recipe=none"),
    ],
    ids=["seed", "more", "less", "shorter", "recipe"],
)
def test_another_job_is_refused(tmp_path: Path, before: list[str], sentence: str) -> None:
    stored(tmp_path, *before)
    with pytest.raises(UserError, match=sentence):
        require_same_job(job_in(tmp_path, "model=er", "seed=0"))


def test_the_command_that_continues_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    typed = ["-m", "seed=0,1", "optimizer.lr=interval(0.1, 1)", "hydra.sweep.dir=elsewhere"]
    assert command_to_continue(typed, Path("outputs/x")) == (
        "python train.py -m seed=0,1 'optimizer.lr=interval(0.1, 1)' checkpoint.resume=auto "
        "hydra.sweep.dir=outputs/x"
    )


def test_a_requeued_job_resumes_once_it_has_a_checkpoint(tmp_path: Path) -> None:
    job = job_in(tmp_path, "seed=0", "checkpoint.load=best.pth")
    assert resuming_command(job) == ["python", "seed=0", "checkpoint.load=best.pth"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-20_full.pth.json").touch()
    assert resuming_command(job) == ["python", "seed=0", "checkpoint.resume=auto"]


@pytest.mark.parametrize(
    "typed", [("--config-dir", "my/conf"), ("-cd=my/conf",), ("--config-d=my/conf",)], ids=str
)
def test_a_job_is_composed_from_the_folders_of_the_sweep(
    monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...]
) -> None:
    path = "hydra.searchpath=[file://x]"
    hydra = {"overrides": {"hydra": [path]}, "sweep": {"dir": "sweep"}}
    config = OmegaConf.create({"hydra": hydra, "timestamp": "now"})
    monkeypatch.setattr("sys.argv", ["perdure train", "-m", *typed, path, "seed=0,1"])
    words = command(config, 0, ["seed=0"], Path("sweep/0"))
    assert "--config-dir=my/conf" in words
    assert path in words
