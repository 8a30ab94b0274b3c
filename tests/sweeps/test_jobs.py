"""Commands, names and outcomes of a sweep's jobs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from perdure.errors import UserError
from perdure.sweeps.jobs import Job, Outcome, again, finished, name_of, refuse_changed
from perdure.sweeps.process import going_on


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
    ("status", "word"),
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
def test_the_word_for_an_exit_status(status: int, word: str) -> None:
    assert Outcome(status).word == word


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
    ],
)
def test_a_job_may_go_on_in_its_folder(tmp_path: Path, before: list[str]) -> None:
    stored(tmp_path, *before)
    refuse_changed(job_in(tmp_path, "model=er", "seed=0", "tracking.console=off"))


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        (["model=er", "seed=1"], "holds job 3 with seed=1, which would now have seed=0"),
        (["seed=0"], "with nothing more, which would now have model=er"),
        (["seed=0", "model=er", "+x=2"], r"with \+x=2, which would now have nothing more"),
        (["seed=0", "model=er", "dataset.stop_after=1"], "with dataset.stop_after=1"),
    ],
    ids=["seed", "more", "less", "shorter"],
)
def test_another_job_is_refused(tmp_path: Path, before: list[str], sentence: str) -> None:
    stored(tmp_path, *before)
    with pytest.raises(UserError, match=sentence):
        refuse_changed(job_in(tmp_path, "model=er", "seed=0"))


def test_the_command_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    typed = ["-m", "seed=0,1", "optimizer.lr=interval(0.1, 1)", "hydra.sweep.dir=elsewhere"]
    assert again(typed, Path("outputs/x")) == (
        "python train.py -m seed=0,1 'optimizer.lr=interval(0.1, 1)' checkpoint.resume=auto "
        "hydra.sweep.dir=outputs/x"
    )


def test_a_requeued_job_goes_on_once_it_has_a_checkpoint(tmp_path: Path) -> None:
    job = job_in(tmp_path, "seed=0", "checkpoint.load=best.pth")
    assert going_on(job) == ["python", "seed=0", "checkpoint.load=best.pth"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-20_full.pth.json").touch()
    assert going_on(job) == ["python", "seed=0", "checkpoint.resume=auto"]
