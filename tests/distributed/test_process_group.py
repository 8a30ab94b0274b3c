"""Ranks before and in the process group: environment, rendezvous, shards, collective calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from perdure.config.schema import Parallel, ReplaySync, TrainingConfig
from perdure.config.validation import validate
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.ranks import environment, rendezvous
from perdure.run import device_setup
from perdure.run.resume import RestorePoint

TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of rank 1 of 2."""
    for key, value in TWO.items():
        monkeypatch.setenv(key, value)


def test_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in TWO:
        monkeypatch.delenv(key, raising=False)
    assert (environment.rank(), environment.world_size(), environment.restart_count()) == (0, 1, 0)
    assert environment.is_main()
    assert rendezvous.known("anything") is None
    assert rendezvous.from_main("anything", lambda: [1]) == [1]


@pytest.mark.usefixtures("two")
def test_rank_1_of_2() -> None:
    assert (environment.rank(), environment.world_size()) == (1, 2)
    assert (environment.local_rank(), environment.local_world_size()) == (1, 2)
    assert not environment.is_main()


def test_exchanges_of_a_process_alone_change_nothing() -> None:
    ranks, rows = Ranks(), torch.arange(6.0).view(2, 3)
    assert ranks.gather(rows) is rows
    assert torch.equal(ranks.sum_counts(torch.tensor([3, 4])), torch.tensor([3, 4]))
    assert ranks.broadcast("x") == "x"
    assert ranks.gather_objects("x") == ["x"]
    ranks.all_reduce_async(rows).wait()
    ranks.barrier()
    assert ranks.is_main


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.shards=3", "training.shards=3 on 2 processes"),
        ("training={parallel: fsdp, precision: fp16}", "use training.precision=bf16"),
        ("training.shards=0", "training.shards=0: must be an integer, 1 or more"),
        ("training.collective_timeout=0", "collective_timeout=0.0: must be above 0"),
    ],
)
def test_refused_before_anything_is_imported(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(perdure.compose(override))


@pytest.mark.usefixtures("two")
def test_global_batch_norm_needs_a_process_a_shard() -> None:
    validate(perdure.compose("training.sync_batchnorm=true"))
    validate(perdure.compose("training.sync_batchnorm=true", "training.shards=2"))
    with pytest.raises(UserError, match="as many processes as shards"):
        validate(perdure.compose("training.sync_batchnorm=true", "training.shards=4"))


def source(fork: bool, **training: Any) -> RestorePoint:
    return RestorePoint(Path("run/checkpoints/x.pt"), {"args": {"training": training}}, fork)


@pytest.mark.parametrize(
    ("configured", "source", "size", "shards"),
    [
        pytest.param(None, None, 1, 1, id="alone"),
        pytest.param(None, None, 4, 4, id="one-a-process"),
        pytest.param(8, None, 4, 8, id="as-configured"),
        pytest.param(None, source(False, shards=4), 2, 4, id="as-before"),
        pytest.param(None, source(False, shards=None), 2, 2, id="before-there-were-shards"),
        pytest.param(None, source(True, shards=4), 2, 2, id="a-fork-is-free"),
        pytest.param(6, source(False, shards=4), 2, 6, id="what-is-typed-comes-first"),
    ],
)
def test_the_number_of_shards(
    configured: int | None, source: RestorePoint | None, size: int, shards: int
) -> None:
    training = TrainingConfig(shards=configured)
    assert device_setup.shards_of(training, source, Ranks(0, size)) == shards


def test_a_resume_on_too_many_processes_is_refused() -> None:
    with pytest.raises(UserError, match="start 1 or 2 or 4 of them"):
        device_setup.shards_of(TrainingConfig(), source(False, shards=4), Ranks(0, 3))


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_each_process_needs_a_gpu_of_its_own(name: str) -> None:
    if torch.cuda.device_count() >= 2:
        pytest.skip("there are enough")
    with pytest.raises(UserError, match="each needs a GPU of its own"):
        device_setup.device_name(name)
    assert device_setup.device_name("cpu") == "cpu"


def test_notices() -> None:
    assert list(device_setup.notices(TrainingConfig(shards=1), Ranks())) == []
    (line,) = device_setup.notices(TrainingConfig(shards=4), Ranks(0, 2))
    assert line == "2 processes, 4 shards of every batch"
    parts = TrainingConfig(shards=2, parallel=Parallel.fsdp, replay_sync=ReplaySync.local)
    lines = list(device_setup.notices(parts, Ranks()))
    assert [line.split(":")[0] for line in lines] == [
        "training.parallel=fsdp", "training.replay_sync=local",
    ]  # fmt: skip


CHILD = """
import os, sys, time
from perdure.ranks import environment
os.environ.update(RANK="1", WORLD_SIZE="2")
environment.join()
print("to nobody")
print(os.getpid(), file=sys.stderr, flush=True)
time.sleep(60)
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux signals a child when its parent dies"
)
@pytest.mark.process
def test_a_rank_ends_with_its_launcher_and_prints_nothing(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stderr is not None
    child = int(parent.stderr.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    # Both ends of the pipes are closed only when the child is gone too.
    out, _ = parent.communicate(timeout=30)
    assert out == ""
