"""Going on after kills, signals and damage, by the real commands."""

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
from process import ROOT, command, environment, train_in

from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries
from perdure.config.overrides import override

RARE = pytest.mark.exhaustive

SHORT = ("dataset.iterations=100", "training.log_every=10", "checkpoint.every=10 steps")
RUN = ("model=er", "buffer.size=60", "checkpoint.save=true", *SHORT)


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def matrix_of(folder: Path) -> Any:
    return results_of(folder)["accuracy_matrix"]


def start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def stop_midway(
    folder: Path, number: signal.Signals, *arguments: str, **env: str
) -> tuple[int, str]:
    """Start a run, send it a signal when it has a checkpoint within a task; status and errors."""
    process = start(folder, *arguments, **env)
    outputs = folder / "outputs"

    def has_two() -> bool:
        return len(list(outputs.glob("*/checkpoints/step-*0_full.pth.json"))) > 1

    until(lambda: has_two() or process.poll() is not None)
    process.send_signal(number)
    _, sentence = process.communicate(timeout=120)
    return process.returncode, sentence


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    root = tmp_path_factory.mktemp("calm")
    done = train_in(root, "hydra.run.dir=run", *RUN)
    assert done.returncode == 0, done.stderr
    return root / "run"


def the_run(root: Path) -> Path:
    (folder,) = (p for p in (root / "outputs").iterdir() if not p.name.startswith("."))
    return folder


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=RARE), "SIGUSR1"])
def test_a_signal_saves_and_leaves_with_75(tmp_path: Path, calm: Path, name: str) -> None:
    status, sentence = stop_midway(tmp_path, signal.Signals[name], *RUN)
    folder = the_run(tmp_path)
    assert status == 75
    again = f"checkpoint.load={folder} checkpoint.save=true 'checkpoint.every=10 steps'"
    assert sentence == f"perdure: stopped by {name}; python train.py {again} resumes it\n"
    assert json.loads((folder / "status.json").read_text()) == {
        "status": "resumable", "exit_status": 75,
    }  # fmt: skip
    assert results_of(folder)["status"] == "interrupted"
    assert train_in(tmp_path, f"checkpoint.load={folder}", "seed=9").returncode == 2
    assert json.loads((folder / "status.json").read_text())["status"] == "resumable"
    done = train_in(tmp_path, f"checkpoint.load={folder}")
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert the_run(tmp_path) == folder
    assert matrix_of(folder) == matrix_of(calm)
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "model=sgd", "dataset=perm-mnist", "hydra.run.dir=run")
    until(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    # The first is noticed at the next step boundary; stop the process so that there is none.
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode in (75, -signal.SIGINT)


def test_latest_and_the_same_folder(tmp_path: Path, calm: Path) -> None:
    stop_midway(tmp_path, signal.SIGKILL, *RUN)
    folder = the_run(tmp_path)
    before = (folder / ".hydra" / "overrides.yaml").read_text()
    done = train_in(tmp_path, "checkpoint.load=latest")
    assert done.returncode == 0, done.stderr
    assert the_run(tmp_path) == folder
    assert matrix_of(folder) == matrix_of(calm)
    assert results_of(folder)["timestamp"] == folder.name
    assert (folder / ".hydra" / "overrides.yaml").read_text() == before
    assert (folder / ".hydra" / "resume-1" / "config.yaml").is_file()
    steps = [
        json.loads(line)["global_step"]
        for line in (folder / "metrics.jsonl").read_text().splitlines()
        if '"step"' in line and json.loads(line)["kind"] == "step"
    ]
    assert steps == list(range(10, 501, 10))


def test_another_setting_is_refused_unless_forked(tmp_path: Path) -> None:
    stop_midway(tmp_path, signal.SIGKILL, *RUN)
    folder = the_run(tmp_path)
    held = {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()}
    load = f"checkpoint.load={folder}"
    done = train_in(tmp_path, load, "optimizer.lr=0.5", "model=derpp")
    assert done.returncode == 2
    assert "optimizer.lr=0.5 (was 0.03)" in done.stderr
    assert "model.name=derpp (was er)" in done.stderr
    assert "checkpoint.fork=true" in done.stderr
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()} == held
    free = train_in(
        tmp_path, load, "training.log_every=20", "checkpoint.fork=true", "optimizer.lr=0.5"
    )
    assert free.returncode == 0, free.stderr
    (fork,) = (p for p in (tmp_path / "outputs").iterdir() if p != folder)
    assert results_of(fork)["resumes"][0]["fork"] is True
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()} == held


def test_a_run_in_a_folder_of_any_name_is_resumed_and_forked(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "odd", $a\\[x]'
    short = ("model=sgd", "dataset.iterations=2", "checkpoint.save=true")
    place = override("hydra.run.dir", str(folder))
    done = train_in(tmp_path, *short, "dataset.stop_after=1", place)
    assert done.returncode == 0, done.stderr
    load = "++" + override("checkpoint.load", str(folder))
    done = train_in(tmp_path, load, "dataset.stop_after=2")
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert results_of(folder)["tasks_done"] == 2
    assert not (tmp_path / "outputs").exists()
    done = train_in(tmp_path, load, "++checkpoint.fork=on", "optimizer.lr=0.01")
    assert done.returncode == 0, done.stderr
    assert results_of(the_run(tmp_path))["resumes"][-1]["fork"] is True
    held = sorted(path.name for path in folder.iterdir())
    odd = folder.rename(tmp_path / "x${seed}")
    done = train_in(tmp_path, override("checkpoint.load", str(odd)), "dataset.stop_after=3")
    assert done.returncode == 2
    assert f"hydra.run.dir={odd}: Hydra would read the ${{ in it" in done.stderr
    assert sorted(path.name for path in odd.iterdir()) == held
    assert not (tmp_path / "x0").exists()


def test_an_older_file_forks(tmp_path: Path, calm: Path) -> None:
    (old,) = (calm / "checkpoints").glob("er_*_1.pt")
    listing = sorted(p.name for p in calm.rglob("*"))
    done = train_in(tmp_path, f"checkpoint.load={old}")
    assert done.returncode == 0, done.stderr
    assert "a fork of" in done.stdout
    fork = the_run(tmp_path)
    assert matrix_of(fork) == matrix_of(calm)
    assert sorted(p.name for p in calm.rglob("*")) == listing
    rows = [json.loads(line) for line in (fork / "metrics.jsonl").read_text().splitlines()]
    assert [row["global_step"] for row in rows if row["kind"] == "step"] == list(range(10, 501, 10))


def test_auto_starts_continues_and_reports(tmp_path: Path, calm: Path) -> None:
    auto = ("checkpoint.resume=auto", "hydra.run.dir=run", *RUN)
    process = start(tmp_path, *auto)
    until(lambda: len(entries(tmp_path / "run" / "checkpoints")) > 3)
    process.kill()
    process.communicate()
    done = train_in(tmp_path, *auto)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    assert matrix_of(tmp_path / "run") == matrix_of(calm)
    held = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").iterdir()}
    again = train_in(tmp_path, *auto)
    assert again.returncode == 0
    assert "is finished already" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "checkpoints").iterdir()} == held


def test_a_requeued_cluster_job_finds_its_run(tmp_path: Path, calm: Path) -> None:
    auto = ("checkpoint.resume=auto", *RUN)
    status, _ = stop_midway(tmp_path, signal.SIGTERM, *auto, SLURM_JOB_ID="4711")
    assert status == 75
    process = start(tmp_path, *auto, SLURM_JOB_ID="4711")
    shown, _ = process.communicate(timeout=120)
    assert "resumed from" in shown
    assert matrix_of(the_run(tmp_path)) == matrix_of(calm)
    other = start(tmp_path, *auto, "seed=1", SLURM_JOB_ID="4711")
    other.communicate(timeout=120)
    assert len([p for p in (tmp_path / "outputs").iterdir() if p.name != ".jobs"]) == 2


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    first = start(tmp_path, "hydra.run.dir=run", "model=sgd", "dataset=perm-mnist")
    until(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    done = train_in(tmp_path, "hydra.run.dir=run", "model=sgd")
    assert done.returncode == 2
    assert f"another run writes there (process {first.pid} on" in done.stderr
    assert first.poll() is None
    assert not (tmp_path / "run" / "status.json").exists()
    first.kill()
    first.communicate()


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_newest_file_falls_back(tmp_path: Path, calm: Path) -> None:
    stop_midway(tmp_path, signal.SIGTERM, *RUN)
    folder = the_run(tmp_path)
    newest = [e for e in entries(folder / "checkpoints") if e.full][-1].path
    damage(newest)
    done = train_in(tmp_path, f"checkpoint.load={folder}")
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr + (folder / "train.log").read_text()
    assert matrix_of(folder) == matrix_of(calm)
    assert (newest.parent / f"{newest.name}.damaged-0").is_file()


def test_nothing_intact_is_refused(tmp_path: Path) -> None:
    stop_midway(tmp_path, signal.SIGTERM, *RUN)
    folder = the_run(tmp_path)
    for entry in entries(folder / "checkpoints"):
        damage(entry.path)
    done = train_in(tmp_path, f"checkpoint.load={folder}")
    assert done.returncode == 2
    assert "no checkpoint there is intact" in done.stderr
    assert done.stderr.count("Traceback") == 0


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("nowhere.pt", "nowhere.pt"),
        ("latest", "no run under outputs has a full checkpoint"),
        (".", "has no full checkpoint"),
    ],
)
def test_a_reference_to_nothing(tmp_path: Path, reference: str, sentence: str) -> None:
    done = train_in(tmp_path, f"checkpoint.load={reference}")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_changed_default_does_not_change_a_run(tmp_path: Path) -> None:
    """What a config file said when the run started is kept, whatever it says today."""
    stop_midway(tmp_path, signal.SIGTERM, *RUN)
    folder = the_run(tmp_path)
    extra = tmp_path / "conf" / "optimizer"
    extra.mkdir(parents=True)
    text = (ROOT / "conf" / "optimizer" / "sgd.yaml").read_text()
    state = read([e for e in entries(folder / "checkpoints") if e.full][-1].path)
    assert state["args"]["optimizer"]["momentum"] == 0
    from perdure.config.compare import differences
    from perdure.config.overrides import quoted

    today = {**state["args"], "optimizer": {**state["args"]["optimizer"], "momentum": 0.9}}
    assert "momentum: 0.0" in text
    pins = [f"++{key}={quoted(before)}" for key, _, before in differences(today, state["args"])]
    assert pins == ["++optimizer.momentum=0.0"]


def test_a_sweep_runs_only_what_is_missing(tmp_path: Path) -> None:
    sweep = (
        "-m", "seed=0,1", "model=sgd", "hydra.sweep.dir=sweep", "checkpoint.resume=auto", *SHORT,
    )  # fmt: skip
    assert train_in(tmp_path, *sweep).returncode == 0
    before = (tmp_path / "sweep" / "0" / "results.json").stat().st_mtime_ns
    (tmp_path / "sweep" / "1" / "results.json").unlink()
    done = train_in(tmp_path, *sweep)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("was finished before") == 1
    assert (tmp_path / "sweep" / "0" / "results.json").stat().st_mtime_ns == before
    assert results_of(tmp_path / "sweep" / "1")["status"] == "finished"


@pytest.mark.exhaustive
def test_runs_killed_at_random_end_alike(tmp_path: Path) -> None:
    """Nine methods, SIGKILL at 54 random instants or more; every end is the undisturbed one."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "crash_test.py"), "--kills", "54", "--json"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills = [kill for one in json.loads(done.stdout) for kill in one["kills"] if kill["killed"]]
    assert len(kills) >= 40
    assert sum(kill["mid_epoch"] for kill in kills) >= 15
    assert sum(kill["in_a_write"] for kill in kills) >= 1
