"""CPU threads a process: fixed at the start like the shards, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from perdure.checkpoint.core.format import read
from perdure.distributed.process_group import Ranks
from perdure.ranks import environment
from perdure.run import device_setup
from perdure.run.restore import versions
from perdure.run.resume import RestorePoint

LARGE = ("model=sgd", "backbone.hidden=[1300]", "dataset.iterations=2", "tracking.console=off")
"""A network of 1,034,810 parameters."""


@pytest.fixture(autouse=True)
def one_thread_again() -> Any:
    yield
    torch.set_num_threads(1)


def machine(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(environment, "cores", lambda: cores)


@pytest.mark.parametrize(
    ("cores", "shards", "threads"), [(16, 1, 16), (16, 4, 4), (16, 5, 3), (2, 4, 1), (1, 1, 1)]
)
def test_a_shard_has_its_share_of_the_cores_whatever_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, cores: int, shards: int, threads: int
) -> None:
    machine(monkeypatch, cores)
    for local in ("1", "2", "4"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert device_setup.threads_of(1_000_000, shards, Ranks()) == threads
        assert device_setup.threads_of(999_999, shards, Ranks()) == 1


def point(threads: Any, before: Any = None, fork: bool = False) -> RestorePoint:
    state = {"args": {"threads": threads}, "versions": {"threads": before}}
    return RestorePoint(Path("run/checkpoints/x.pt"), state, fork)


@pytest.mark.parametrize(
    ("source", "threads"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(point(3), 3, id="recorded"),
        pytest.param(point(3, "8"), 3, id="recorded-first"),
        pytest.param(point(None, "8"), 8, id="earlier-version"),
        pytest.param(point(3, fork=True), None, id="a-fork-is-free"),
        *(
            pytest.param(point(bad), None, id=f"bad-{bad}")
            for bad in (0, -1, 10**9, "x", 1.5, True)
        ),
        *(
            pytest.param(point(None, bad), None, id=f"bad-version-{bad}")
            for bad in ("0", "9" * 40, "x", "-1", [], 2**70, "²")
        ),
    ],
)
def test_a_resumed_run_has_the_threads_that_it_was_started_with(
    source: RestorePoint | None, threads: int | None
) -> None:
    """A file says a number, not how much of the machine it may take."""
    assert device_setup.threads_before(source) == threads


@pytest.mark.process
def test_a_run_is_resumed_with_its_threads_on_a_machine_with_fewer_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, 4)
    save = ("checkpoint.save=true", "training.shards=2")
    started = perdure.train(*LARGE, *save, "dataset.stop_after=1", folder=tmp_path)
    assert started["environment"]["threads"] == 2
    (file,) = (tmp_path / "checkpoints").glob("*_0.pt")
    assert read(file)["args"]["threads"] == 2
    machine(monkeypatch, 1)
    torch.set_num_threads(1)
    plain = ("dataset.stop_after=2", "checkpoint.save=true", "tracking.console=plain")
    resumed = perdure.train(f"checkpoint.load={tmp_path}", *plain)
    assert resumed["tasks_done"] == 2
    assert torch.get_num_threads() == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "threads=2: as the run was started, and this machine has 1 cores" in shown
    assert "the checkpoint has" not in shown, "nothing differs"
    typed = perdure.train(f"checkpoint.load={tmp_path}", "threads=1", "dataset.stop_after=3")
    assert typed["tasks_done"] == 3
    assert versions(torch.device("cpu"), "x")["threads"] == "1"


def test_what_is_typed_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    results = perdure.train(*LARGE, "dataset.stop_after=1", "threads=3")
    assert results["environment"]["threads"] == 3
    small = perdure.train(*LARGE, "dataset.stop_after=1", "backbone.hidden=[10]")
    assert small["environment"]["threads"] == 1
