"""Run folders that an earlier version has written are loaded, and resumed to the same end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bits import key
from process import train_in

import perdure

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format1"
MADE_ON = "torch 2.13.0+cpu, AVX512, x86_64 AuthenticAMD"
SMALL = ("dataset.stop_after=2", "backbone.hidden=[4]", "tracking.console=off")
ER = ("model=er", *SMALL)
DERPP = ("model=derpp", "buffer=class-balanced", "scheduler=cosine", *SMALL)
LONG = ("dataset.iterations=200", "buffer.size=10")
KINDS = ("class_il", "task_il")


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the run folder that the test names."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "run", symlinks=True))


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal accuracies; on another processor or torch, as near as rounding leaves them."""
    slack = 0.0 if key() == MADE_ON else 0.03
    for kind in KINDS:
        for a, b in zip(
            found["accuracy_matrix"][kind], wanted["accuracy_matrix"][kind], strict=True
        ):
            assert a == pytest.approx(b, abs=slack)


@pytest.mark.parametrize(
    ("copy", "step", "overrides"),
    [
        ("interrupted", 26, (*ER, "optimizer.lr=0.01")),
        ("killed", 230, (*DERPP, "model.alpha=0.2", "model.beta=1.0", "optimizer.lr=0.03")),
    ],
    indirect=["copy"],
    ids=["interrupted", "killed"],
)
def test_a_run_that_was_cut_short_resumes(
    copy: Path, step: int, overrides: tuple[str, ...]
) -> None:
    resumed = perdure.train(f"checkpoint.load={copy}")
    assert resumed["status"] == "finished"
    (entry,) = resumed["resumes"]
    assert entry["from"].endswith(f"step-{step}_full.pth")
    same(resumed, perdure.train(*overrides, *LONG))


@pytest.mark.parametrize("copy", ["finished"], indirect=True)
def test_a_finished_run_is_known_as_such(tmp_path: Path, copy: Path) -> None:
    wanted = json.loads((copy / "results.json").read_text())
    done = train_in(
        tmp_path, "hydra.run.dir=run", "checkpoint.resume=auto", *ER,
        "dataset.iterations=8", "buffer.size=20", "checkpoint.save=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is finished already" in done.stdout
    assert json.loads((copy / "results.json").read_text()) == wanted


@pytest.mark.parametrize("copy", ["finished"], indirect=True)
def test_the_file_of_a_task_resumes_as_a_fork(tmp_path: Path, copy: Path) -> None:
    (first,) = copy.glob("checkpoints/night-er_*_0.pt")
    forked = perdure.train(f"checkpoint.load={first}", folder=tmp_path / "fork")
    assert [entry["fork"] for entry in forked["resumes"]] == [True]
    same(forked, json.loads((copy / "results.json").read_text()))


@pytest.mark.parametrize("copy", ["finished"], indirect=True)
@pytest.mark.parametrize("name", ["best.pth", "last.pth", "task0.1.pth"])
def test_the_weights_alone_start_a_run(copy: Path, name: str) -> None:
    path = copy / "checkpoints" / name
    settings = ("dataset.stop_after=1", "dataset.iterations=1", "backbone.hidden=[4]")
    results = perdure.train(f"checkpoint.load={path}", "model=er", *settings)
    assert results["status"] == "finished"
