"""One run on several processes: kills, signals, restarts, and moves between world sizes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kit import assert_same
from process import train_in
from ranks_of import (
    LONG,
    SHORT,
    clean,
    end_of,
    finish,
    go,
    rows_of,
    saved,
    sentences,
    start,
    status_of,
    torchrun,
    until,
    workers,
)

from perdure.ranks.environment import cores

RARE = pytest.mark.exhaustive

RUN = "hydra.run.dir=run"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run on one process, in four shards."""
    root = tmp_path_factory.mktemp("calm")
    done = train_in(root, RUN, *SHORT)
    assert done.returncode == 0, done.stderr
    return root / "run"


def assert_same_end(run: Path, calm: Path) -> None:
    assert_same(end_of(run), end_of(calm))
    assert rows_of(run) == rows_of(calm)
    results = [clean(json.loads((r / "results.json").read_text())) for r in (run, calm)]
    assert results[0] == results[1]
    records = [{p.name: p.read_bytes() for p in (r / "records").iterdir()} for r in (run, calm)]
    assert records[0] == records[1]
    assert set(records[0]) == {"evaluations.jsonl", "task-0.npz", "task-1.npz"}


def stop_at(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """SIGTERM to the launcher once `run` has saved that step."""
    until(lambda: saved(run) >= step or process.poll() is not None)
    process.terminate()
    finish(process)


def test_two_ranks_end_as_one_and_leave_one_set_of_files(tmp_path: Path, calm: Path) -> None:
    assert go(tmp_path, 2, RUN, *SHORT) == 0
    assert_same_end(tmp_path / "run", calm)
    names = [sorted(p.name for p in run.rglob("*")) for run in (tmp_path / "run", calm)]
    stamps = [json.loads((run / "results.json").read_text())["timestamp"] for run in (
        tmp_path / "run", calm)]  # fmt: skip
    assert [n.replace(stamps[0], "") for n in names[0]] == [
        n.replace(stamps[1], "") for n in names[1]
    ]
    shown = (tmp_path / "stdout").read_text()
    assert shown.count("finished: derpp") == 1
    assert "2 processes, 4 shards of every batch" in shown
    assert sentences(tmp_path) == []


LARGE = (
    "model=er", "backbone.hidden=[1300]", "dataset.batch_size=64", "dataset.iterations=8",
    "dataset.stop_after=2", "training.log_every=2", "checkpoint.save=true", "training.shards=2",
)  # fmt: skip
"""A network above a million parameters, which gets more than a thread where there are cores."""


def test_a_large_network_ends_with_the_same_bits_on_any_number_of_processes(tmp_path: Path) -> None:
    for n in (1, 2):
        assert go(tmp_path / str(n), n, RUN, *LARGE) == 0
    assert_same_end(tmp_path / "2" / "run", tmp_path / "1" / "run")
    results = [json.loads((tmp_path / n / "run" / "results.json").read_text()) for n in "12"]
    threads = [result["environment"]["threads"] for result in results]
    assert threads == [max(1, cores() // 2)] * 2


def test_a_run_moves_between_world_sizes(tmp_path: Path, calm: Path) -> None:
    """2 → 1 → 4 → 2, each stopped by SIGTERM on the way, the last one to the end."""
    run = tmp_path / "run"
    process = start(tmp_path, torchrun(2), RUN, *SHORT, "checkpoint.every=5 steps")
    stop_at(process, run, 15)
    assert status_of(run) == {"status": "resumable", "exit_status": 75}
    places = [saved(run)]
    resume = (f"checkpoint.load={run}", "checkpoint.save=true", "checkpoint.every=5 steps")
    for n, step in ((1, 40), (4, 75)):
        process = start(tmp_path, torchrun(n), *resume)
        stop_at(process, run, step)
        assert status_of(run)["status"] == "resumable", (tmp_path / "stderr").read_text()
        places.append(saved(run))
    assert go(tmp_path, 2, *resume) == 0
    assert places == sorted(set(places))
    assert places[-1] < 120
    assert_same_end(run, calm)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=RARE)])
def test_a_killed_rank_is_replaced_and_the_run_resumes(
    tmp_path: Path, calm: Path, rank: int
) -> None:
    """Nobody types anything: torchrun starts the ranks anew, and they find the run."""
    process = start(tmp_path, torchrun(2, "--max-restarts=3"), RUN, *SHORT)
    run = tmp_path / "run"
    for step in (20, 70):
        until(lambda step=step: saved(run) >= step or process.poll() is not None)
        known = workers(process.pid)
        os.kill(known[rank], signal.SIGKILL)
        until(lambda known=known: not set(known.values()) & set(workers(process.pid).values()))
    assert finish(process) == 0, (tmp_path / "stderr").read_text()
    assert_same_end(run, calm)
    results = json.loads((run / "results.json").read_text())
    assert len(results["resumes"]) == 2


def test_a_restart_without_a_named_folder_finds_its_own(tmp_path: Path) -> None:
    process = start(tmp_path, torchrun(2, "--max-restarts=1"), *LONG)
    outputs = tmp_path / "outputs"
    until(lambda: any(saved(run) for run in outputs.glob("*")))
    known = workers(process.pid)
    os.kill(known[1], signal.SIGKILL)
    (run,) = outputs.iterdir()
    until(lambda: '"resumes"' in (run / "results.json").read_text())
    process.terminate()
    finish(process)
    assert list(outputs.iterdir()) == [run]
    assert status_of(run)["status"] == "resumable"


@pytest.mark.parametrize("rank", [None, pytest.param(0, marks=RARE), 1])
def test_a_signal_to_any_process_gives_one_checkpoint(tmp_path: Path, rank: int | None) -> None:
    """To the launcher, which passes it on to all, or to a single rank."""
    process = start(tmp_path, torchrun(2), RUN, *LONG, "checkpoint.every=100 steps")
    run = tmp_path / "run"
    until(lambda: saved(run) >= 100)
    os.kill(process.pid if rank is None else workers(process.pid)[rank], signal.SIGTERM)
    assert finish(process) != 0
    assert status_of(run) == {"status": "resumable", "exit_status": 75}
    assert saved(run) % 100, "it was saved where the signal came"
    (sentence,) = sentences(tmp_path)
    assert " resumes it" in sentence
    assert ("to another process" in sentence) == (rank == 1)


def test_ranks_do_not_outlive_their_launcher(tmp_path: Path) -> None:
    process = start(tmp_path, torchrun(2), RUN, *LONG)
    run = tmp_path / "run"
    until(lambda: saved(run) >= 10)
    ranks = workers(process.pid).values()
    process.kill()
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 60)
    assert status_of(run) == {"status": "resumable", "exit_status": 75}


def test_a_frozen_rank_ends_the_run_in_bounded_time(tmp_path: Path) -> None:
    process = start(tmp_path, torchrun(2), RUN, *LONG, "training.collective_timeout=4")
    run = tmp_path / "run"
    until(lambda: saved(run) >= 10)
    os.kill(workers(process.pid)[1], signal.SIGSTOP)
    began = time.monotonic()
    assert finish(process) != 0
    # The timeout, and the half minute that torchrun gives a process which does not end.
    assert time.monotonic() - began < 60
    (sentence,) = sentences(tmp_path)
    assert "another process of the run ended or did not answer" in sentence
    assert saved(run) >= 10


def test_two_jobs_of_the_same_second_keep_apart(tmp_path: Path) -> None:
    short = ("model=sgd", "dataset.iterations=5", "dataset.stop_after=1")
    both = [start(tmp_path / name, torchrun(2), *short, f"output_root={tmp_path}/outputs")
            for name in "ab"]  # fmt: skip
    assert [finish(process) for process in both] == [0, 0]
    folders = sorted((tmp_path / "outputs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert json.loads((folder / "results.json").read_text())["timestamp"] == folder.name


def test_a_mistake_is_reported_once_with_status_2(tmp_path: Path) -> None:
    assert go(tmp_path, 2, RUN, "training.shards=3") != 0
    assert len(sentences(tmp_path)) == 1
    assert "start 1 or 3 of them" in sentences(tmp_path)[0]
    assert "exitcode  : 2" in (tmp_path / "stderr").read_text()
    assert not (tmp_path / "run").exists()


def test_a_sweep_shares_one_folder(tmp_path: Path) -> None:
    short = ("dataset.iterations=5", "dataset.stop_after=1", "model=er,derpp")
    assert go(tmp_path, 2, "-m", *short) == 0
    (folder,) = (tmp_path / "outputs").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "0", "1", "figures", "multirun.yaml", "report.html", "summary.csv", "summary.md",
        "summary.tex",
    ]  # fmt: skip
    for job in "01":
        assert json.loads((folder / job / "results.json").read_text())["status"] == "finished"
    assert "job_logging=none" not in (folder / "multirun.yaml").read_text()


def test_a_sweep_ends_with_its_first_failure_and_tells_all(tmp_path: Path) -> None:
    """The other jobs are listed, and how to resume with the same number of shards."""
    sweep = ("-m", "hydra.sweep.dir=sweep", "model=sgd", "dataset.iterations=5")
    few = ("dataset.stop_after=1", "optimizer.lr=0.1,-1,0.2")
    assert go(tmp_path, 2, *sweep, *few) == 1
    shown = (tmp_path / "stdout").read_text()
    assert shown.count("sweep in sweep: 1 finished, 1 failed, 1 not started") == 1
    assert shown.count("failed: job 1, optimizer.lr=-1: optimizer.lr=-1: must be 0 or more") == 1
    assert sentences(tmp_path) == [
        "perdure: 2 of 3 jobs did not finish; the same torchrun command with "
        "checkpoint.resume=auto hydra.sweep.dir=sweep runs what is missing"
    ]


def test_a_stopped_sweep_counts_its_job_as_interrupted(tmp_path: Path) -> None:
    process = start(tmp_path, torchrun(2), "-m", "hydra.sweep.dir=sweep", "seed=0,1", *LONG)
    stop_at(process, tmp_path / "sweep" / "0", 20)
    shown = (tmp_path / "stdout").read_text()
    assert "sweep in sweep: 0 finished, 1 interrupted, 1 not started" in shown
    assert "the same torchrun command with" in sentences(tmp_path)[-1]
