"""Weights & Biases as a mirror: the real client, real processes, a server on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks_of
from kit import assert_same, without_clock
from process import environment, run_folder, train_in
from wandb_runs import (
    LONG,
    MIRRORED,
    PROJECT,
    SAVED,
    SHORT,
    machine,
    record_of,
    require_every_row_once,
    rows_of,
    server_steps,
    start,
    sync,
    versions,
    wandb_lines,
)
from wandb_server.server import StandIn

from perdure.checkpoint.core.format import read


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run that W&B knows nothing of."""
    root = tmp_path_factory.mktemp("calm")
    done = train_in(root, *LONG)
    assert done.returncode == 0, done.stderr
    return run_folder(root)


def require_same_end(folder: Path, calm: Path) -> None:
    """Weights, optimizer, buffer, results and metrics, bit for bit."""
    ends = [next((one / "checkpoints").glob("*_4.pt")) for one in (folder, calm)]
    ours, other = map(read, ends)
    for part in ("model", "optimizer", "buffer", "position", "rng"):
        assert_same(ours[part], other[part], part)
    results = []
    for one in (folder, calm):
        content = without_clock(json.loads((one / "results.json").read_text()))
        results.append({k: v for k, v in content.items() if k not in ("timestamp", "resumes")})
    assert results[0] == results[1]
    assert without_clock(rows_of(folder)) == without_clock(rows_of(calm))


def test_a_killed_run_resumes_on_another_machine(
    wandb_server: StandIn, tmp_path: Path, calm: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    process = start(a, machine(wandb_server, a), *MIRRORED, *LONG)
    wandb_server.wait_for("UpsertBucket")
    folder = run_folder(a)
    run_id = record_of(folder)["id"]
    wandb_server.wait_until(lambda: "task-1" in versions(wandb_server, run_id), 120)
    process.kill()
    process.communicate()
    assert json.loads((folder / "results.json").read_text())["status"] == "running"

    reference = f"wandb://tester/{PROJECT}/ckpt-{run_id}:latest"
    version = versions(wandb_server, run_id)["latest"]
    done = train_in(
        b, f"checkpoint.load={reference}", "checkpoint.save=true", env=machine(wandb_server, b)
    )
    assert done.returncode == 0, done.stderr
    rebuilt = run_folder(b)
    assert rebuilt.name == folder.name
    assert record_of(rebuilt)["id"] == run_id
    pinned = reference.replace("latest", version)
    assert f"checkpoint.load='{pinned}'" in (rebuilt / ".hydra" / "overrides.yaml").read_text()
    assert json.loads((rebuilt / "results.json").read_text())["resumes"][0]["from"] == pinned
    require_same_end(rebuilt, calm)
    require_every_row_once(wandb_server, rebuilt)
    assert wandb_server.run(PROJECT, run_id).state == "finished"
    known = versions(wandb_server, run_id)
    assert known["latest"] == known["task-4"] == known["best"]
    assert len(wandb_server.project(PROJECT).run_by_name) == 1


def test_a_killed_offline_run_is_synced_and_resumes_elsewhere(
    wandb_server: StandIn, tmp_path: Path, calm: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    process = start(a, machine(wandb_server, a, WANDB_MODE="offline"), *MIRRORED, *LONG)
    while not list(a.glob("outputs/*/checkpoints/*_1.pt.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert wandb_server.log == []
    folder = run_folder(a)
    done = sync(wandb_server, a, str(folder))
    assert done.returncode == 0, done.stderr
    run_id = record_of(folder)["id"]
    done = train_in(
        b,
        f"checkpoint.load=wandb://tester/{PROJECT}/ckpt-{run_id}:latest",
        "checkpoint.save=true",
        env=machine(wandb_server, b),
    )
    assert done.returncode == 0, done.stderr
    require_same_end(run_folder(b), calm)
    require_every_row_once(wandb_server, run_folder(b))


def test_an_offline_run_is_synced_once(wandb_server: StandIn, tmp_path: Path) -> None:
    env = machine(wandb_server, tmp_path, WANDB_MODE="offline")
    done = train_in(tmp_path, *MIRRORED, *SAVED, env=env)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    assert wandb_lines(done) == [f"W&B: offline; perdure sync-wandb {folder} sends it later"]
    assert wandb_server.log == []
    first = sync(wandb_server, tmp_path, str(folder))
    assert first.returncode == 0, first.stderr
    assert "3 uploads sent" in first.stdout
    again = sync(wandb_server, tmp_path, str(folder))
    assert again.returncode == 0, again.stderr
    assert "0 uploads sent" in again.stdout
    require_every_row_once(wandb_server, folder)
    run_id = record_of(folder)["id"]
    run = wandb_server.run(PROJECT, run_id)
    assert run.state == "finished"
    assert run.summary()["best/class_il/avg_acc"] >= run.summary()["last/class_il/avg_acc"]
    # Two tasks of 100 steps are not the published protocol, so the method's own default holds.
    assert run.config_values()["optimizer/lr"] == 0.03
    known = versions(wandb_server, run_id)
    assert known["latest"] == known["task-1"] == "v1"
    assert known["task-0"] == "v0"


def test_a_run_that_was_never_meant_for_wandb_can_be_sent(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    assert train_in(tmp_path, *SAVED[:-1]).returncode == 0
    folder = run_folder(tmp_path)
    done = sync(wandb_server, tmp_path, str(folder), "--project", PROJECT)
    assert done.returncode == 0, done.stderr
    require_every_row_once(wandb_server, folder)
    done = sync(wandb_server, tmp_path, str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2, f"perdure: {tmp_path}: no run's folder (it holds no results.json)\n",
    )  # fmt: skip


def test_a_fork_is_a_run_of_its_own_that_used_the_artifact(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert train_in(a, *MIRRORED, *SAVED, env=machine(wandb_server, a)).returncode == 0
    folder = run_folder(a)
    run_id = record_of(folder)["id"]
    reference = f"wandb://tester/{PROJECT}/ckpt-{run_id}:task-0"
    done = train_in(
        b,
        f"checkpoint.load={reference}",
        "checkpoint.save=true",
        "optimizer.lr=0.05",
        env=machine(wandb_server, b),
    )
    assert done.returncode == 0, done.stderr
    assert f"a fork of {reference.replace('task-0', 'v0')}" in done.stdout
    fork = run_folder(b)
    record = record_of(fork)
    assert record["id"] != run_id
    used = wandb_server.run(PROJECT, record["id"]).inputs
    assert [f"{one.artifactSequence.name}:v{one.versionIndex}" for one in used] == [
        f"ckpt-{run_id}:v0"
    ]
    require_every_row_once(wandb_server, fork)
    require_every_row_once(wandb_server, folder)


def test_an_artifact_is_measured_though_the_folder_stands_further(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    """And the end of a task that was not evaluated is mirrored as such."""
    env = machine(wandb_server, tmp_path)
    done = train_in(tmp_path, *MIRRORED, *SAVED, "training.evaluate_every_task=2", env=env)
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    run_id = record_of(folder)["id"]
    ends = [row["global_step"] for row in rows_of(folder) if row["kind"] == "task"]
    name = "after_task/class_il/avg_acc"
    assert wandb_server.values(PROJECT, run_id, "global_step", having=name) == ends[1:]
    matrix = wandb_server.values(PROJECT, run_id, "accuracy_matrix/class_il")[-1]
    assert matrix["nrows"] == len(ends) == 2
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    reference = f"wandb://tester/{PROJECT}/ckpt-{run_id}:task-0"
    measured = subprocess.run(
        [sys.executable, "-m", "perdure", "evaluate", f"checkpoint={reference}"],
        cwd=tmp_path, env={**environment(), **env}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (other,) = (path for path in (tmp_path / "outputs").iterdir() if path != folder)
    results = json.loads((other / "results.json").read_text())
    assert results["tasks_done"] == 1
    assert results["evaluation"]["position"]["task"] == 1


@pytest.mark.exhaustive
def test_a_folder_that_stands_further_is_not_set_back(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    env = machine(wandb_server, tmp_path)
    assert train_in(tmp_path, *MIRRORED, *SAVED, env=env).returncode == 0
    folder = run_folder(tmp_path)
    before = rows_of(folder)
    reference = f"wandb://tester/{PROJECT}/ckpt-{record_of(folder)['id']}:latest"
    done = train_in(tmp_path, f"checkpoint.load={reference}", "dataset.stop_after=3", env=env)
    assert done.returncode == 0, done.stderr
    assert run_folder(tmp_path) == folder
    assert without_clock(rows_of(folder)[: len(before) - 1]) == without_clock(before[:-1])
    steps = server_steps(wandb_server, folder)
    assert steps == [row["global_step"] for row in rows_of(folder) if row["kind"] == "step"]
    other = json.loads((folder / "wandb.json").read_text())
    (folder / "wandb.json").write_text(json.dumps({**other, "id": "another"}))
    done = train_in(tmp_path, f"checkpoint.load={reference}", env=env)
    assert done.returncode == 2
    assert "another run is there" in done.stderr


@pytest.mark.parametrize("launcher", ["one_process", "local"])
def test_a_sweep_is_one_group_of_runs(wandb_server: StandIn, tmp_path: Path, launcher: str) -> None:
    how = ("-m", f"hydra/launcher={launcher}", "model=sgd,er")
    done = train_in(tmp_path, *how, *MIRRORED, *SHORT, env=machine(wandb_server, tmp_path))
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs").iterdir()
    runs = [wandb_server.run(PROJECT, record_of(sweep / job)["id"]) for job in ("0", "1")]
    assert [run.group for run in runs] == [sweep.name] * 2
    assert [run.config_values()["model"] for run in runs] == ["sgd", "er"]
    assert [run.state for run in runs] == ["finished"] * 2
    for job, run in zip(("0", "1"), runs, strict=True):
        assert re.fullmatch(rf"{sweep.name}-{job}-[0-9a-f]{{4}}", run.name)
        require_every_row_once(wandb_server, sweep / job)


def test_preemption_and_auto_resume_are_one_run(wandb_server: StandIn, tmp_path: Path) -> None:
    again = (*MIRRORED, *LONG, "hydra.run.dir=run", "checkpoint.resume=auto", "model=sgd")
    env = machine(wandb_server, tmp_path)
    process = start(tmp_path, env, *again)
    wandb_server.wait_for("UpsertBucket")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 75, out
    folder = tmp_path / "run"
    run_id = record_of(folder)["id"]
    assert wandb_server.run(PROJECT, run_id).state != "finished"
    done = train_in(tmp_path, *again, env=env)
    assert done.returncode == 0, done.stderr
    assert record_of(folder)["id"] == run_id
    assert wandb_server.run(PROJECT, run_id).state == "finished"
    steps = server_steps(wandb_server, folder)
    assert steps == [row["global_step"] for row in rows_of(folder) if row["kind"] == "step"]


def test_ranks_that_are_started_anew_are_one_run(wandb_server: StandIn, tmp_path: Path) -> None:
    command = ranks_of.torchrun(2, "--max-restarts=1")
    where = (*MIRRORED, *ranks_of.SHORT, "dataset.iterations=400", "hydra.run.dir=run")
    process = ranks_of.start(tmp_path, command, *where)
    run = tmp_path / "run"
    ranks_of.until(lambda: ranks_of.saved(run) >= 100)
    os.kill(ranks_of.workers(process.pid)[1], signal.SIGKILL)
    assert ranks_of.finish(process) == 0, (tmp_path / "stderr").read_text()
    assert json.loads((run / "results.json").read_text())["resumes"]
    assert len(wandb_server.project(PROJECT).run_by_name) == 1
    require_every_row_once(wandb_server, run)


def test_stop_on_the_runs_page_saves_and_leaves(wandb_server: StandIn, tmp_path: Path) -> None:
    endless = ("model=sgd", "dataset.epochs=1000", "hydra.run.dir=run")
    process = start(tmp_path, machine(wandb_server, tmp_path), *MIRRORED, *endless)
    wandb_server.wait_for("file_stream")
    run_id = record_of(tmp_path / "run")["id"]
    wandb_server.run(PROJECT, run_id).stopped = True
    _, err = process.communicate(timeout=180)
    assert process.returncode == 75
    assert "stopped from its W&B page" in err
    assert os.listdir(tmp_path / "run" / "checkpoints")


def test_a_mirrored_run_can_be_resumed_unmirrored(wandb_server: StandIn, tmp_path: Path) -> None:
    env = machine(wandb_server, tmp_path, WANDB_MODE="offline")
    assert train_in(tmp_path, *MIRRORED, *SAVED, env=env).returncode == 0
    done = train_in(tmp_path, "checkpoint.load=latest", "tracking=local", env=env)
    assert done.returncode == 0, done.stderr
    assert not wandb_lines(done)


def test_a_folder_sent_as_a_new_run_is_resumed_there(wandb_server: StandIn, tmp_path: Path) -> None:
    env = machine(wandb_server, tmp_path)
    assert train_in(tmp_path, *MIRRORED, *SAVED, env=env).returncode == 0
    folder = run_folder(tmp_path)
    (folder / "wandb.json").unlink()
    assert sync(wandb_server, tmp_path, str(folder), "--project", "new").returncode == 0
    moved = record_of(folder)
    reference = f"wandb://tester/new/ckpt-{moved['id']}:latest"
    for home, load in ((tmp_path, "latest"), (tmp_path / "b", reference)):
        done = train_in(home, f"checkpoint.load={load}", env=machine(wandb_server, home))
        assert done.returncode == 0, done.stderr
        there = record_of(run_folder(home))
        assert (there["project"], there["id"]) == ("new", moved["id"])


@pytest.mark.exhaustive
def test_a_run_is_never_resumed_in_a_folder_of_another_that_is_called_the_same(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    env = machine(wandb_server, a)
    done = train_in(a, *MIRRORED, *SAVED, env=env)
    assert done.returncode == 0, done.stderr
    folder = run_folder(a)
    b.mkdir()
    time.sleep(1)  # a run is known by the second in which it started
    assert train_in(b, *SAVED[:-1], f"hydra.run.dir=outputs/{folder.name}").returncode == 0
    reference = f"wandb://tester/{PROJECT}/ckpt-{record_of(folder)['id']}:latest"
    done = train_in(
        b, f"checkpoint.load={reference}", "checkpoint.save=true", env=machine(wandb_server, b)
    )
    assert done.returncode == 2
    assert "another run is there" in done.stderr
