"""`perdure branch`: several runs from one checkpoint, killed and resumed too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from process import ROOT, environment, train_in

from perdure.cli.branch import sweep_of
from perdure.errors import UserError
from perdure.run.resume import resolve

TINY = ("dataset.iterations=20", "dataset.n_tasks=5", "tracking.console=off")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that keeps a checkpoint a task."""
    root = tmp_path_factory.mktemp("branching")
    done = train_in(root, "model=er", "checkpoint.save=true", "hydra.run.dir=base", *TINY)
    assert done.returncode == 0, done.stderr
    return root / "base"


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    variables = {**environment(), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, "-m", "perdure", "branch", *arguments], cwd=root, env=variables,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def test_branches_of_a_task_s_end(base: Path) -> None:
    sweep = start(base.parent, "base@task-2", "seed=0,1", "hydra.sweep.dir=branches")
    out, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    assert "2 jobs" in out
    same, other = (results_of(base.parent / "branches" / name) for name in "01")
    original = results_of(base)["accuracy_matrix"]
    assert same["accuracy_matrix"] == original
    assert other["accuracy_matrix"]["class_il"][:3] == original["class_il"][:3]
    assert other["accuracy_matrix"] != original
    for results in (same, other):
        (entry,) = results["resumes"]
        assert entry["from"].endswith("_2.pt")
        assert (entry["fork"], entry["model"], entry["task"]) == (True, "er", 3)


def test_a_killed_branch_is_resumed_where_it_stands(base: Path) -> None:
    longer = ("dataset.iterations=400", "checkpoint.every=20 steps")  # of the tasks from here on
    words = ("base@task-3", "optimizer.lr=0.02", *longer, "hydra.sweep.dir=killed")
    root = base.parent
    calm = start(root, *words[:-1], "hydra.sweep.dir=calm")
    assert calm.wait(300) == 0
    sweep = start(root, *words)
    rolling = root / "killed" / "0" / "checkpoints"
    deadline = time.monotonic() + 200
    while not list(rolling.glob("step-*_full.pth.json")):
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(sweep.pid, signal.SIGKILL)  # its jobs go with it
    sweep.communicate()
    again = start(root, *words, "checkpoint.resume=auto")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    resumed, undisturbed = (results_of(root / name / "0") for name in ("killed", "calm"))
    assert resumed["accuracy_matrix"] == undisturbed["accuracy_matrix"]
    assert [entry["fork"] for entry in resumed["resumes"]] == [True, False]


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("@task-9", "has no checkpoint of that task's end, but @task-0, @task-1, "),
        ("@task-x", "no such file"),
    ],
)
def test_a_task_that_is_not_there(base: Path, reference: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve(f"{base}{reference}", base.parent)


def test_the_end_of_a_task_is_a_reference(base: Path) -> None:
    found = resolve(f"{base}@task-1", base.parent)
    assert found.reference == str(next((base / "checkpoints").glob("*_1.pt")))


def test_the_sweep_that_branches_are() -> None:
    assert sweep_of(["a@task-1", "seed=0,1"]) == [
        "-m", "hydra/launcher=local", "checkpoint.load=a@task-1", "checkpoint.fork=true",
        "seed=0,1",
    ]  # fmt: skip
    assert "hydra/launcher=local" not in sweep_of(["-m", "hydra/launcher=ray", "a", "seed=0"])
    for words in (["seed=0"], ["a", "b"]):
        with pytest.raises(UserError, match="must name one checkpoint"):
            sweep_of(words)


def test_branches_in_one_process_are_refused(base: Path) -> None:
    done = train_in(
        base.parent, "-m", f"checkpoint.load={base}", "checkpoint.fork=true", "seed=0,1"
    )
    assert done.returncode == 2
    assert "each branch is a process of its own, so add hydra/launcher=local" in done.stderr
