"""A method and a benchmark of a user's own folder, by every way to run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import MINE, MODULES, TINY, make_lab, modules_of
from process import ROOT, environment
from ranks_of import torchrun

CONSOLE = (str(Path(sys.executable).with_name("perdure")), "train")
MODULE = (sys.executable, "-m", "perdure", "train")
SCRIPT = (sys.executable, str(ROOT / "train.py"))
RANKS = tuple(torchrun(2))
RANKS_OF_MODULE = (*torchrun(2, "-m")[:-1], "perdure", "train")
WHERE = {
    "config-dir": ("--config-dir", "labconf"), "abbreviated": ("--config-d=labconf",),
    "searchpath": ("hydra.searchpath=[file://labconf]",),
    "package": ("hydra.searchpath=[pkg://labconf]",),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current directory of the commands, with the user's modules beside it or on the path."""
    make_lab(tmp_path)
    return tmp_path


def run(here: Path, *command: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    variables = environment()
    if path is not None:
        found = [str(path), *filter(None, [variables.get("PYTHONPATH")])]
        variables["PYTHONPATH"] = os.pathsep.join(found)
    done = subprocess.run(
        command, cwd=here, env=variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def tasks(run: Path) -> int:
    """How many tasks the run in this folder has finished."""
    results = json.loads((run / "results.json").read_text())
    assert results["status"] == "finished"
    return len(results["accuracy_matrix"]["class_il"])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("program", "where"),
    [
        pytest.param(CONSOLE, "searchpath", id="console"),
        pytest.param(MODULE, "abbreviated", id="module"),
        pytest.param(SCRIPT, "package", id="script"),
        pytest.param(RANKS, "searchpath", id="torchrun"),
        pytest.param(RANKS_OF_MODULE, "config-dir", id="torchrun-module"),
    ],
)
def test_by_every_program_and_on_resume(here: Path, program: tuple[str, ...], where: str) -> None:
    save = ("checkpoint.save=true", "hydra.run.dir=run", "training.shards=2")
    run(here, *program, *WHERE[where], *MINE, *save)
    assert tasks(here / "run") == 1
    assert modules_of(here / "run") >= MODULES
    assert "lab/unused.py" not in modules_of(here / "run")
    run(here, *program, *WHERE[where], "checkpoint.load=run", "dataset.stop_after=2")
    assert tasks(here / "run") == 2
    assert not (here / "run" / "code-2").exists()


@pytest.mark.parametrize("where", ["config-dir", "package"])
def test_resuming_by_the_same_command(here: Path, where: str) -> None:
    command = (*CONSOLE, *WHERE[where], *MINE, "checkpoint.save=true", "hydra.run.dir=run")
    again = ("checkpoint.resume=auto", "dataset.stop_after=2")
    run(here, *command)
    (here / "run" / "results.json").unlink()
    (here / "run" / "status.json").unlink()
    run(here, *command, *again)
    assert tasks(here / "run") == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("launcher", "where"),
    [("one_process", "package"), ("local", "abbreviated"), ("slurm_local", "searchpath")],
)
def test_in_a_sweep(here: Path, launcher: str, where: str) -> None:
    if launcher == "slurm_local":
        pytest.importorskip("submitit")
    sweep = (f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "dataset=mine", *TINY)
    run(here, *CONSOLE, "-m", *WHERE[where], *sweep, "model=er,mine")
    assert [tasks(here / "sweep" / job) for job in "01"] == [1, 1]
    assert "lab/data.py" in modules_of(here / "sweep" / "0")
    assert modules_of(here / "sweep" / "1") >= MODULES


def test_modules_elsewhere_on_the_path(
    here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    where = f"--config-dir={here / 'labconf'}"
    run(other, *SCRIPT, where, *MINE, "hydra.run.dir=run", path=here)
    assert modules_of(other / "run") == MODULES


@pytest.mark.parametrize("how", [(), ("-m", "hydra/launcher=local", "seed=0,1")], ids=["run", "-m"])
def test_the_script_through_a_link_from_another_directory(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "go.py").symlink_to(ROOT / "train.py")
    (tmp_path / "link.py").symlink_to(Path("bin", "go.py"))
    (tmp_path / "work").mkdir()
    run(tmp_path / "work", sys.executable, "../link.py", *how, "model=sgd", *TINY)
    (folder,) = (tmp_path / "work" / "outputs").iterdir()
    assert [tasks(f) for f in ([folder / "0", folder / "1"] if how else [folder])] == [1] * (
        2 if how else 1
    )
