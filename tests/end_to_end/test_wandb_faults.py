"""What can go wrong with W&B: training continues, ends well, and nothing is lost."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process import run_folder, train_in
from wandb_runs import (
    MIRRORED,
    SHORT,
    machine,
    record_of,
    require_every_row_once,
    rows_of,
    start,
    sync,
    versions,
    wandb_lines,
)
from wandb_server.server import StandIn

RARE = pytest.mark.exhaustive

MEDIUM = (
    "checkpoint.save=true", "dataset.stop_after=4", "dataset.iterations=600",
    "training.log_every=10",
)  # fmt: skip
QUICK = (*MIRRORED, *SHORT, "checkpoint.save=true")


@pytest.mark.parametrize(
    ("prepare", "env", "message"),
    [
        pytest.param(
            lambda server: None, {"WANDB_API_KEY": "", "WANDB_MODE": ""},
            r"offline; perdure sync-wandb .* sends it later", id="no key", marks=RARE,
        ),
        pytest.param(
            lambda server: None, {"WANDB_API_KEY": "x" * 40},
            "could not be opened: the server does not know this API key", id="wrong key",
        ),
        pytest.param(
            lambda server: server.deny(), {},
            "could not be opened: the API key has no permission there",
            id="no permission", marks=RARE,
        ),
        pytest.param(
            lambda server: server.down(), {}, "the run could not be opened: ", id="down at start",
        ),
        pytest.param(
            lambda server: server.fault("UpsertBucket", status=500), {},
            "the run could not be opened: ", id="500s at start",
        ),
        pytest.param(
            lambda server: server.fault("file_stream", status=400), {},
            "the last rows have not been seen to arrive", id="history refused",
        ),
        pytest.param(
            lambda server: server.fault("PUT storage", status=403), {},
            "not sent|not done", id="uploads refused",
        ),
    ],
)  # fmt: skip
def test_training_ends_well_and_the_rest_is_sent_later(
    wandb_server: StandIn,
    tmp_path: Path,
    prepare: Callable[[StandIn], None],
    env: dict[str, str],
    message: str,
) -> None:
    prepare(wandb_server)
    limits = "tracking.wandb.finish_seconds=6"
    done = train_in(tmp_path, *QUICK, limits, env=machine(wandb_server, tmp_path, **env))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = run_folder(tmp_path)
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"
    sentences = wandb_lines(done)
    assert re.search(message, sentences[-1]), sentences
    assert f"perdure sync-wandb {folder}" in sentences[-1]
    wandb_server.up()
    wandb_server.faults.clear()
    wandb_server.allow()
    later = sync(wandb_server, tmp_path, str(folder))
    assert later.returncode == 0, later.stderr
    require_every_row_once(wandb_server, folder)
    assert versions(wandb_server, record_of(folder)["id"])["latest"] == "v1"
    assert not (folder / "upload_queue").exists()


@pytest.mark.parametrize(
    ("policy", "status", "message"),
    [("raise", 2, "tracking.wandb.on_error=raise: no API key"), ("disable", 0, "nothing more")],
)
def test_what_a_failure_means_is_the_users_choice(
    wandb_server: StandIn, tmp_path: Path, policy: str, status: int, message: str
) -> None:
    env = machine(wandb_server, tmp_path, WANDB_API_KEY="")
    choice = (f"tracking.wandb.on_error={policy}", "tracking.wandb.mode=online")
    done = train_in(tmp_path, *QUICK, *choice, env=env)
    assert done.returncode == status
    assert message in (done.stderr if status else wandb_lines(done)[-1])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        pytest.param(
            "PUT storage",
            {"status": 500, "times": 3},
            id="uploads fail thrice",
            marks=RARE,
        ),
        pytest.param(
            "PUT storage",
            {"cut": 1000, "times": 1},
            id="an upload is cut half-way",
            marks=RARE,
        ),
        pytest.param("CommitArtifact", {"status": 500, "times": 2}, id="commits fail twice"),
        pytest.param(
            "file_stream",
            {"status": 500, "times": 2},
            id="history fails twice",
            marks=RARE,
        ),
        pytest.param(
            "UpsertBucket",
            {"delay": 2.0, "times": 1},
            id="slow to open",
            marks=RARE,
        ),
    ],
)
def test_passing_faults_lose_nothing(
    wandb_server: StandIn, tmp_path: Path, where: str, fault: dict[str, Any]
) -> None:
    wandb_server.fault(where, **fault)
    limits = "tracking.wandb.finish_seconds=60"
    done = train_in(tmp_path, *QUICK, limits, env=machine(wandb_server, tmp_path))
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    assert "all is at" in wandb_lines(done)[-1]
    require_every_row_once(wandb_server, folder)
    assert versions(wandb_server, record_of(folder)["id"])["task-1"] == "v1"
    assert wandb_server.log.count(where) > fault["times"]


def test_a_server_that_dies_for_a_while_misses_nothing(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    process = start(tmp_path, machine(wandb_server, tmp_path), *MIRRORED, *MEDIUM)
    wandb_server.wait_for("CommitArtifact")
    wandb_server.down()
    folder = run_folder(tmp_path)
    while len(rows_of(folder)) < 120:
        assert process.poll() is None
        time.sleep(0.01)
    wandb_server.up()
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "all is at" in wandb_lines(out)[-1], out
    require_every_row_once(wandb_server, folder)
    assert versions(wandb_server, record_of(folder)["id"])["latest"] != "v0"


def test_a_server_that_dies_for_good_is_waited_for_no_longer_than_agreed(
    wandb_server: StandIn, tmp_path: Path
) -> None:
    limits = "tracking.wandb.finish_seconds=4"
    process = start(tmp_path, machine(wandb_server, tmp_path), *MIRRORED, *MEDIUM, limits)
    wandb_server.wait_for("CommitArtifact")
    wandb_server.down()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "sends the rest" in wandb_lines(out)[-1]
    wandb_server.up()
    folder = run_folder(tmp_path)
    assert sync(wandb_server, tmp_path, str(folder)).returncode == 0
    require_every_row_once(wandb_server, folder)
    known = versions(wandb_server, record_of(folder)["id"])
    assert known["task-3"] == known["latest"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tester/cl/ckpt-none:latest", "no such version, or no right to see it"),
        ("tester/cl", "must be wandb://entity/project/name:alias"),
    ],
    ids=["unknown artifact", "no reference"],
)
def test_a_reference_that_means_nothing(
    wandb_server: StandIn, tmp_path: Path, name: str, message: str
) -> None:
    env = machine(wandb_server, tmp_path)
    done = train_in(tmp_path, f"checkpoint.load=wandb://{name}", env=env)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
