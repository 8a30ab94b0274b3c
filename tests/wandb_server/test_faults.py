"""Each kind of fault, and how the real client takes it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from wandb_server import StandIn
from wandb_server.clients import artifact, machine, start

pytestmark = pytest.mark.process

CONTENT = bytes(range(256)) * 4000


def test_down_refuses_and_up_has_everything(wandb_server: StandIn) -> None:
    """Rows of before, during and after an outage arrive once and in order."""
    with start() as run:
        run.log({"global_step": 0})
        wandb_server.wait_until(lambda: len(wandb_server.history("cl", "r1")) == 1)
        wandb_server.down()
        for step in range(1, 50):
            run.log({"global_step": step})
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", wandb_server.port))
        time.sleep(1.5)  # the client sends every second
        assert len(wandb_server.history("cl", "r1")) == 1
        run.log({"global_step": 50})
        threading.Timer(0.5, wandb_server.up).start()
    assert wandb_server.values("cl", "r1", "global_step") == [*range(51)]


def test_down_at_the_start(wandb_server: StandIn) -> None:
    import wandb

    wandb_server.down()
    with pytest.raises(wandb.errors.CommError, match="refused"):
        start(settings={"init_timeout": 2})


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("CommitArtifact", {"status": 500}),
        ("PUT storage", {"status": 503}),
        ("PUT storage", {"cut": 5000}),
        ("CreateArtifact", {"lose": True}),
        ("CommitArtifact", {"lose": True}),
    ],
    ids=["500", "503 of an upload", "cut upload", "lost draft", "lost commit"],
)
def test_an_artifact_outlives_faults_that_pass(
    wandb_server: StandIn, tmp_path: Path, where: str, how: dict[str, int]
) -> None:
    """And becomes one version, however often its parts were sent."""
    wandb_server.fault(where, **how, times=1)
    with start() as run:
        assert run.log_artifact(artifact(tmp_path, CONTENT)).wait().version == "v0"
    (kept,) = wandb_server.project("cl").sequences["ckpt"].versions
    assert kept.read("model.bin") == CONTENT
    assert wandb_server.log.count(where) > 1
    assert not [*wandb_server.directory.glob("partial-*")]


@pytest.mark.parametrize(
    ("where", "how", "message"),
    [
        ("CommitArtifact", {"message": "boom"}, "boom"),
        ("CreateArtifact", {"status": 403}, "fault 403"),
        ("PUT storage", {"status": 403}, "uploads"),
    ],
    ids=["GraphQL error", "403", "403 of an upload"],
)
def test_an_artifact_fails_at_once(
    wandb_server: StandIn, tmp_path: Path, where: str, how: dict[str, int], message: str
) -> None:
    with start() as run:
        wandb_server.fault(where, **how)
        with pytest.raises(ValueError, match=message):
            run.log_artifact(artifact(tmp_path, CONTENT)).wait()
    sequence = wandb_server.project("cl").sequences.get("ckpt")
    assert sequence is None or sequence.versions == []


@pytest.mark.parametrize("how", [{"status": 500}, {"lose": True}], ids=["500", "lost answer"])
def test_rows_arrive_once(wandb_server: StandIn, how: dict[str, int]) -> None:
    with start() as run:
        run.log({"global_step": 0})
        wandb_server.wait_until(lambda: len(wandb_server.history("cl", "r1")) == 1)
        wandb_server.fault("file_stream", **how, times=1)
        for step in range(1, 20):
            run.log({"global_step": step})
    assert wandb_server.values("cl", "r1", "global_step") == [*range(20)]


def test_a_slow_answer_comes_after_all(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    wandb_server.fault("CommitArtifact", delay=1.5)
    with start() as run:
        logged = run.log_artifact(artifact(tmp_path, CONTENT))
        with pytest.raises(wandb.sdk.artifacts.exceptions.WaitTimeoutError):
            logged.wait(timeout=0.2)
        sequence = wandb_server.project("cl").sequences["ckpt"]
        wandb_server.wait_until(lambda: len(sequence.versions) == 1)


def test_a_download_that_is_cut(wandb_server: StandIn, tmp_path: Path) -> None:
    import requests
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, CONTENT), aliases=["best"]).wait()
    found = wandb.Api().artifact("tester/cl/ckpt:best")
    found.manifest  # noqa: B018 — fetched before the fault
    wandb_server.fault("GET storage", cut=len(CONTENT) // 2, times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        found.download(root=str(tmp_path / "out"), skip_cache=True)
    found.download(root=str(tmp_path / "out"), skip_cache=True)
    assert (tmp_path / "out/model.bin").read_bytes() == CONTENT


def test_a_download_that_is_corrupt(wandb_server: StandIn, tmp_path: Path) -> None:
    """As long as it should be, and only `verify` sees it."""
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, CONTENT)).wait()
    found = wandb.Api().artifact("tester/cl/ckpt:latest")
    found.manifest  # noqa: B018 — fetched before the fault
    wandb_server.fault("GET storage", corrupt=True)
    found.download(root=str(tmp_path / "out"), skip_cache=True)
    got = (tmp_path / "out/model.bin").read_bytes()
    assert len(got) == len(CONTENT)
    assert got != CONTENT
    with pytest.raises(ValueError, match="Digest mismatch"):
        found.verify(str(tmp_path / "out"))


UPLOADS = """
import pathlib, wandb
run = wandb.init(project="cl", id="r1")
pathlib.Path("model.bin").write_bytes(b"1" * 20_000_000)
made = wandb.Artifact("ckpt", "checkpoint")
made.add_file("model.bin")
run.log_artifact(made).wait()
"""


@pytest.mark.parametrize(
    ("where", "how"),
    [("PUT storage", {}), ("CommitArtifact", {"cut": 0})],
    ids=["upload", "commit"],
)
def test_a_client_killed_on_the_way(
    wandb_server: StandIn, tmp_path: Path, where: str, how: dict[str, int]
) -> None:
    """Nothing is a version, half a file is no file, and the same again takes up the whole one."""
    gate = threading.Event()
    wandb_server.fault(where, hold=gate, **how)
    with machine(wandb_server, tmp_path, UPLOADS):  # killed at the end
        wandb_server.wait_for("CreateArtifactFiles")
        wandb_server.wait_for(where, since=wandb_server.log.index("CreateArtifactFiles"))
    wandb_server.faults.clear()
    gate.set()
    assert wandb_server.project("cl").sequences["ckpt"].versions == []
    kept = len(list(wandb_server.directory.glob("blob-*")))
    assert kept == (where == "CommitArtifact")
    with start(resume="allow") as run:
        run.log_artifact(artifact(tmp_path, b"1" * 20_000_000)).wait()
    assert wandb_server.uploads("blob") == 1
    (made,) = wandb_server.project("cl").sequences["ckpt"].versions
    assert made.read("model.bin") == b"1" * 20_000_000


def test_waiting_ends(wandb_server: StandIn) -> None:
    with pytest.raises(TimeoutError, match="2 requests 'UpsertBucket' not within"):
        wandb_server.wait_for("UpsertBucket", 2, timeout=0.05)


def test_the_log_is_in_order(wandb_server: StandIn, tmp_path: Path) -> None:
    with start() as run:
        run.log_artifact(artifact(tmp_path, CONTENT)).wait()
    ordered = ["UpsertBucket", "CreateArtifact", "CreateArtifactFiles", "PUT storage"]
    places = [wandb_server.log.index(name) for name in [*ordered, "CommitArtifact"]]
    assert places == sorted(places)
