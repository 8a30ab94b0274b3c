"""A folder is one run: what another command does there, and what a kill at its end leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import assert_same, without_clock
from process import environment, train_in

import perdure
from perdure.checkpoint.core.format import read
from perdure.errors import UserError

RARE = pytest.mark.exhaustive

SHORT = ("model=er", "buffer.size=40", "dataset.iterations=30", "training.log_every=10")
RUN = (*SHORT, "tracking.console=off", "checkpoint.every=10 steps", "hydra.run.dir=run")
ONE = (*RUN, "dataset.stop_after=1")
AUTO = "checkpoint.resume=auto"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and the time of its last change; the lock has neither."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def measured(folder: Path) -> dict[str, Any]:
    """The results but for times and the list of resumes."""
    results = without_clock(results_of(folder))
    return {key: value for key, value in results.items() if key not in ("resumes", "timestamp")}


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "clock"} for line in lines]


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"code"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run of one task that ended well, in `run`."""
    root = tmp_path_factory.mktemp("finished")
    done = train_in(root, *ONE, AUTO)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((*ONE,), id="the same, resume forgotten"),
        pytest.param((*ONE, "seed=3"), id="another seed"),
    ],
)
def test_a_used_folder_is_refused_without_resume(finished: Path, command: tuple[str, ...]) -> None:
    before = snapshot(finished / "run")
    done = train_in(finished, *command)
    assert (done.returncode, done.stderr) == (
        2,
        "perdure: hydra.run.dir=run: a run is in that folder already; checkpoint.resume=auto "
        "resumes it, another hydra.run.dir starts a run of its own\n",
    )
    assert snapshot(finished / "run") == before


def test_python_is_refused_alike(finished: Path) -> None:
    before = snapshot(finished / "run")
    with pytest.raises(UserError, match=r"folder=.*already; checkpoint\.resume=auto"):
        perdure.train(*SHORT, folder=finished / "run")
    with pytest.raises(UserError, match=r"seed=3 \(was 0\)"):
        perdure.train(*SHORT, "seed=3", AUTO, folder=finished / "run")
    again = perdure.train(*SHORT, "dataset.stop_after=1", AUTO, folder=finished / "run")
    assert again == results_of(finished / "run")
    assert snapshot(finished / "run") == before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model=sgd", "model.name=sgd (was er)"),
        ("dataset=perm-mnist", "dataset.name=perm-mnist (was seq-mnist)"),
        ("seed=9", "seed=9 (was 0)"),
        ("optimizer.lr=0.5", "optimizer.lr=0.5 (was 0.03)"),
        ("dataset.epochs=2", "dataset.epochs=2 (was 1)"),
        ("dataset.stop_after=2", "dataset.stop_after=2 is another run: checkpoint.save=false"),
        ("dataset.stop_after=null", "dataset.stop_after=null is another run"),
    ],
)
def test_a_finished_folder_answers_for_no_other_command(
    finished: Path, override: str, told: str
) -> None:
    before = snapshot(finished / "run")
    done = train_in(finished, *ONE, override, AUTO)
    assert done.returncode == 2
    assert told in done.stderr
    assert "another hydra.run.dir" in done.stderr
    assert snapshot(finished / "run") == before


def test_a_finished_run_loaded_again_keeps_its_times(finished: Path) -> None:
    before = snapshot(finished / "run")
    done = train_in(finished, *ONE, AUTO)
    assert done.returncode == 0
    assert "is finished already" in done.stdout
    for name in ("results.json", "metrics.jsonl", "report.html"):
        assert snapshot(finished / "run")[name] == before[name]


def test_more_tasks_continue_a_finished_run_to_the_bit(tmp_path: Path) -> None:
    kept = (*RUN, "checkpoint.save=true")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for root, numbers in ((whole, (3,)), (parts, (1, 2, 3))):
        root.mkdir()
        for number in numbers:
            done = train_in(root, *kept, f"dataset.stop_after={number}", AUTO)
            assert done.returncode == 0, done.stderr
            assert results_of(root / "run")["tasks_done"] == number
    assert measured(parts / "run") == measured(whole / "run")
    assert rows(parts / "run") == rows(whole / "run")
    states = [
        read(next((root / "run" / "checkpoints").glob("er_*_2.pt"))) for root in (whole, parts)
    ]
    for part in ("model", "optimizer", "buffer", "position"):
        assert_same(states[0][part], states[1][part], part)


KILLED_AT = {
    "before the picture": "perdure.tracking.files.LocalFiles._draw",
    "before the report": "perdure.tracking.files.LocalFiles._report",
    "before retention": "perdure.checkpoint.core.manager.CheckpointManager.finish",
    "between two unlinks": "perdure.checkpoint.core.format.remove",
    "before the status": "perdure.run.folder.RunFolder.write_status",
}
KILL = """
import importlib, os, signal, sys
from perdure.checkpoint.core import sidecars
from perdure.cli.main import main
import perdure.run.assemble

*module, owner, name = sys.argv[1].split(".")
try:
    holder = importlib.import_module(".".join([*module, owner]))
except ModuleNotFoundError:
    holder = getattr(importlib.import_module(".".join(module)), owner)
done = lambda: '"status": "finished"' in open("run/results.json").read()
real = getattr(holder, name)

def killing(*arguments, **options):
    if done():
        if name == "remove":
            sidecars.remove(arguments[0])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(holder, name, killing)
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(
            place,
            id=name,
            marks=()
            if name in ("before the report", "between two unlinks")
            else pytest.mark.exhaustive,
        )
        for name, place in KILLED_AT.items()
    ],
)
def test_the_next_command_completes_a_good_end(tmp_path: Path, finished: Path, place: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILL, place, *ONE, AUTO],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert listing(tmp_path / "run") != listing(finished / "run")
    done = train_in(tmp_path, *ONE, AUTO)
    assert done.returncode == 0, done.stderr
    assert listing(tmp_path / "run") == listing(finished / "run")
    assert measured(tmp_path / "run") == measured(finished / "run")
    assert rows(tmp_path / "run") == rows(finished / "run")
    assert "is finished already" in train_in(tmp_path, *ONE, AUTO).stdout


@pytest.mark.parametrize("text", ["{", pytest.param("[" * 100_000, marks=RARE)])
def test_damaged_results_are_rebuilt_from_the_checkpoint(tmp_path: Path, text: str) -> None:
    kept = (*ONE, "checkpoint.save=true", AUTO)
    assert train_in(tmp_path, *kept).returncode == 0
    before = measured(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(text)
    done = train_in(tmp_path, *kept)
    assert done.returncode == 0, done.stderr
    assert "damaged" in (tmp_path / "run" / "train.log").read_text()
    assert measured(tmp_path / "run") == before


def test_damaged_results_without_a_checkpoint_are_one_sentence(tmp_path: Path) -> None:
    assert train_in(tmp_path, *ONE, AUTO).returncode == 0
    os.truncate(tmp_path / "run" / "results.json", 0)
    done = train_in(tmp_path, *ONE, AUTO)
    assert done.returncode == 2
    assert done.stderr.startswith("perdure: run/results.json: damaged")
    assert done.stderr.count("\n") == 1


def flip_a_digit(path: Path, after: bytes) -> None:
    data = path.read_bytes()
    at = data.index(b"0.", data.index(after)) + 2
    path.write_bytes(data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :])


def test_a_changed_digit_is_told_and_what_the_checkpoint_holds_is_rebuilt(tmp_path: Path) -> None:
    kept = (*ONE, "checkpoint.save=true", AUTO)
    assert train_in(tmp_path, *kept).returncode == 0
    run = tmp_path / "run"
    before, before_rows = measured(run), rows(run)
    flip_a_digit(run / "results.json", b"average_accuracy")
    assert measured(run) != before
    done = train_in(tmp_path, *kept)
    assert (done.returncode, measured(run)) == (0, before), done.stderr
    assert "results.json: damaged" in (run / "train.log").read_text()
    flip_a_digit(run / "metrics.jsonl", b"loss")
    done = train_in(tmp_path, *kept)
    assert done.returncode == 0, done.stderr
    assert "metrics.jsonl: damaged" in done.stderr
    assert [row["kind"] for row in rows(run)] == ["end"]  # the first row was hit
    assert len((run / "metrics.jsonl.damaged-0").read_text().splitlines()) == len(before_rows)


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path) -> None:
    """Also one that lies at a higher step, in a folder whose run has the same timestamp."""
    long = ("timestamp=20260101-000000", "checkpoint.save=true", *SHORT, "tracking.console=off")
    for seed, tasks in ((0, 1), (1, 2)):
        place = (f"seed={seed}", f"hydra.run.dir=seed{seed}", f"dataset.stop_after={tasks}")
        assert train_in(tmp_path, *long, *place).returncode == 0
    for path in (tmp_path / "seed1" / "checkpoints").glob("task1.*_full.pth*"):
        (tmp_path / "seed0" / "checkpoints" / path.name).write_bytes(path.read_bytes())
    mine = ("seed=0", "hydra.run.dir=seed0", AUTO)
    done = train_in(tmp_path, *long, *mine, "dataset.stop_after=2")
    assert done.returncode == 0, done.stderr
    assert "is of another run" in (tmp_path / "seed0" / "train.log").read_text()
    assert train_in(tmp_path, *long, "hydra.run.dir=alone", "dataset.stop_after=2").returncode == 0
    assert measured(tmp_path / "seed0") == measured(tmp_path / "alone")


def test_times_of_a_sweep_in_one_process_do_not_add_up(tmp_path: Path) -> None:
    sweep = ("-m", "hydra.sweep.dir=sweep", "seed=0,1,2", *SHORT, "dataset.stop_after=1")
    done = train_in(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    jobs = [results_of(tmp_path / "sweep" / str(number)) for number in range(3)]
    first = jobs[0]["cpu_seconds"]
    # Importing torch, half of the first job's time, is not the later ones'.
    assert all(job["cpu_seconds"]["start"] < first["start"] for job in jobs[1:])
    assert jobs[2]["cpu_seconds"]["total"] < 1.5 * jobs[1]["cpu_seconds"]["total"]
    before = snapshot(tmp_path / "sweep" / "0")
    refused = train_in(tmp_path, *sweep)
    assert refused.returncode == 2
    assert "checkpoint.resume=auto" in refused.stderr
    assert train_in(tmp_path, *sweep, AUTO).returncode == 0
    assert snapshot(tmp_path / "sweep" / "0") == before
