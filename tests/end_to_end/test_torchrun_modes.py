"""Errors of one process, a network in parts, buffers in parts: with the real program."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import assert_same
from process import train_in
from ranks_of import (
    LONG,
    SHORT,
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

RUN = "hydra.run.dir=run"
HALF = ("checkpoint.every=5 steps",)


def interrupted(folder: Path, n: int, *arguments: str, at: int = 30) -> None:
    """A run on `n` ranks that was stopped after it saved step `at`."""
    process = start(folder, torchrun(n), RUN, *arguments)
    until(lambda: saved(folder / "run") >= at or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert status_of(folder / "run")["status"] == "resumable", (folder / "stderr").read_text()


def test_an_error_on_one_rank_is_shown_by_it_and_ends_all(tmp_path: Path) -> None:
    failing = ("~backbone.hidden", "backbone._target_=worlds.Failing")
    began = time.monotonic()
    assert go(tmp_path, 2, RUN, "model=er", *failing) != 0
    assert time.monotonic() - began < 60
    errors = (tmp_path / "stderr").read_text()
    assert errors.count("RuntimeError: only this process fails") == 1
    assert len([line for line in sentences(tmp_path) if "another process" in line]) == 1
    assert status_of(tmp_path / "run") == {"status": "interrupted", "exit_status": 1}


def test_a_folder_in_use_is_refused_once(tmp_path: Path) -> None:
    first = start(tmp_path, torchrun(2), RUN, *LONG)
    until(lambda: saved(tmp_path / "run") >= 10)
    # Not under `tmp_path` itself, whose stdout and stderr are the first one's.
    run, began = f"hydra.run.dir={tmp_path}/run", time.monotonic()
    assert go(tmp_path / "second", 2, run, *LONG) != 0
    assert time.monotonic() - began < 28, "torchrun had to kill a process"
    (sentence,) = sentences(tmp_path / "second")
    assert f"another run writes there (process {workers(first.pid)[0]} on" in sentence
    first.terminate()
    finish(first)
    assert status_of(tmp_path / "run")["status"] == "resumable"


def weights_of(run: Path) -> Any:
    return end_of(run)["model"]


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.exhaustive), 4])
def test_a_network_in_parts_is_saved_whole(tmp_path: Path, n: int) -> None:
    """Saved on 2 ranks, it resumes on 1 and on 4, and agrees with a plain run within rounding."""
    fsdp = (*SHORT, "training.parallel=fsdp")
    interrupted(tmp_path, 2, *fsdp)
    assert go(tmp_path, n, f"checkpoint.load={tmp_path}/run", "checkpoint.save=true") == 0, (
        tmp_path / "stderr"
    ).read_text()
    done = train_in(tmp_path, "hydra.run.dir=plain", *SHORT)
    assert done.returncode == 0, done.stderr
    for key, value in weights_of(tmp_path / "plain").items():
        torch.testing.assert_close(weights_of(tmp_path / "run")[key], value, rtol=1e-3, atol=1e-4)
    if n > 1:
        shown = (tmp_path / "stdout").read_text()
        assert "training.parallel=fsdp: each process holds a part" in shown


def test_weights_alone_fill_a_network_in_parts(tmp_path: Path) -> None:
    short = ("dataset.stop_after=1", "dataset.iterations=3", "checkpoint.save=true")
    assert train_in(tmp_path, "hydra.run.dir=plain", *short).returncode == 0
    light = f"checkpoint.load={tmp_path}/plain/checkpoints/best.pth"
    assert go(tmp_path, 2, RUN, "training.parallel=fsdp", light, *short) == 0
    assert "filled 6 of the network's 6 tensors" in (tmp_path / "stdout").read_text()


def test_methods_that_need_whole_parameters_are_refused(tmp_path: Path) -> None:
    assert go(tmp_path, 2, RUN, "model=si", "training.parallel=fsdp") != 0
    (sentence,) = sentences(tmp_path)
    assert "SI computes with whole parameters" in sentence


def test_local_buffers_resume_at_the_same_world_size_alone(tmp_path: Path) -> None:
    local = (*SHORT, "training.replay_sync=local", *HALF)
    assert go(tmp_path / "calm", 2, RUN, *local) == 0
    interrupted(tmp_path, 2, *local)
    run = tmp_path / "run"
    assert go(tmp_path, 4, f"checkpoint.load={run}") != 0
    (sentence,) = sentences(tmp_path)
    assert "is in 2 parts; start 2 of them" in sentence
    assert go(tmp_path, 2, f"checkpoint.load={run}", "checkpoint.save=true") == 0
    assert_same(end_of(run), end_of(tmp_path / "calm" / "run"))
    assert rows_of(run) == rows_of(tmp_path / "calm" / "run")
    assert (
        "training.replay_sync=local: each process keeps a part" in (tmp_path / "stdout").read_text()
    )


def test_saving_by_the_clock_is_agreed(tmp_path: Path) -> None:
    """Each process has a clock of its own; all save at the steps that rank 0's says."""
    fsdp = ("training.parallel=fsdp", "checkpoint.every=0.005 minutes")
    process = start(tmp_path, torchrun(2), RUN, *LONG[:-3], *fsdp)
    run = tmp_path / "run"
    until(lambda: saved(run) > 0)
    first = saved(run)
    until(lambda: saved(run) > first)
    process.terminate()
    finish(process)
    assert status_of(run)["status"] == "resumable"


def test_the_notice_of_an_inexact_sum(tmp_path: Path) -> None:
    assert go(tmp_path, 2, RUN, *SHORT, "training.exact=false") == 0
    assert (
        "training.exact=false: gradients are summed in whatever order"
        in (tmp_path / "stdout").read_text()
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["environment"]["processes"] == 2
