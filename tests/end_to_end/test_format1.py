"""Run folders that an earlier version has written: what can be loaded of them, and what not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from process import train_in

import perdure

FIXTURES = Path(__file__).parents[1] / "fixtures" / "format1"
SMALL = ("dataset.stop_after=2", "backbone.hidden=[4]", "tracking.console=off")
ER = ("model=er", *SMALL)


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the run folder that the test names."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("copy", ["interrupted", "killed"], indirect=True)
def test_a_run_that_was_cut_short_forks_but_cannot_resume(tmp_path: Path, copy: Path) -> None:
    """Its random draws were made in another way, so no resume could be exact."""
    before = {path.name: path.stat().st_size for path in copy.rglob("*")}
    with pytest.raises(perdure.errors.UserError, match=r"scheme 1, now 2.*checkpoint\.fork=true"):
        perdure.train(f"checkpoint.load={copy}")
    after = {path.name: path.stat().st_size for path in copy.rglob("*")}
    assert {name: after.get(name) for name in before if name.endswith("pt")} == {
        name: size for name, size in before.items() if name.endswith("pt")
    }
    forked = perdure.train(
        f"checkpoint.load={copy}", "checkpoint.fork=true", folder=tmp_path / "fork"
    )
    assert forked["status"] == "finished"
    assert [entry["fork"] for entry in forked["resumes"]] == [True]


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
    assert forked["status"] == "finished"


@pytest.mark.parametrize("copy", ["finished"], indirect=True)
@pytest.mark.parametrize("name", ["best.pth", "last.pth", "task0.1.pth"])
def test_the_weights_alone_start_a_run(copy: Path, name: str) -> None:
    path = copy / "checkpoints" / name
    settings = ("dataset.stop_after=1", "dataset.iterations=1", "backbone.hidden=[4]")
    results = perdure.train(f"checkpoint.load={path}", "model=er", *settings)
    assert results["status"] == "finished"
