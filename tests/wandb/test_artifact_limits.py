"""wandb:// references have a timeout and a maximum size as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mirrored import PROJECT, RunFolder, hurried
from wandb_references import (
    DOWNLOADS,
    SECOND,
    downloads,
    get,
    impatient,
    named,
    refused,
    run,
)
from wandb_server import Fault, StandIn

from perdure.checkpoint.core import format as files
from perdure.io.transfer import Limits
from perdure.wandb import artifacts

pytestmark = pytest.mark.process

__all__ = ["hurried", "impatient", "run"]

SLOW = "could not be fetched: it takes longer than checkpoint.max_minutes="


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the end of the test, so that no thread of the server is left waiting."""
    made = threading.Event()
    yield made
    made.set()


def holding(server: StandIn, gate: threading.Event, nth: int) -> Callable[[str], Fault]:
    """Requests meet a server that does not answer the nth download until the gate opens."""
    meets, before = server.arrived, downloads(server)

    def arrived(name: str) -> Fault:
        usual = meets(name)
        reached = name == "GET storage" and downloads(server) == before + nth + 1
        return Fault(hold=gate) if reached else usual

    return arrived


@pytest.mark.parametrize("name", ["ArtifactMembershipByName", "GET storage"], ids=["api", "file"])
def test_a_server_that_holds_a_request_is_left(
    hurried: StandIn,
    run: RunFolder,
    cache: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(artifacts, "_TIMEOUT", 600)
    hurried.fault(name, hold=gate)
    began = time.monotonic()
    assert SLOW in refused(named("latest"), cache, Limits(3.0))
    assert time.monotonic() - began < 60
    gate.set()
    hurried.faults.clear()
    assert files.verify(get(named("latest"), cache).path)


def test_a_download_that_hangs_does_not_keep_the_process(
    hurried: StandIn,
    run: RunFolder,
    cache: Path,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hurried, "arrived", holding(hurried, gate, DOWNLOADS.index(SECOND)))
    program = (
        "import sys; from pathlib import Path; from perdure.wandb import artifacts; "
        "from perdure.io.transfer import Limits; "
        "artifacts.fetch(sys.argv[1], Path(sys.argv[2]), limits=Limits(15.0))"
    )
    before = downloads(hurried)
    ended = subprocess.run(
        [sys.executable, "-c", program, named("latest"), str(cache)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert downloads(hurried) == before + DOWNLOADS.index(SECOND) + 1
    assert ended.returncode == 1
    assert SLOW in ended.stderr
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_file_above_the_limit_is_not_asked_for(
    hurried: StandIn, run: RunFolder, cache: Path
) -> None:
    before, size = downloads(hurried), (run.path / "checkpoints" / SECOND).stat().st_size
    message = refused(
        named("latest"), cache, Limits(n_bytes=size)
    )  # and its sidecar is one too many
    assert f"more than the {size} bytes that checkpoint.max_gigabytes=" in message
    assert downloads(hurried) == before + DOWNLOADS.index(SECOND)


def test_a_file_larger_than_its_list_says_is_refused(
    hurried: StandIn, run: RunFolder, cache: Path
) -> None:
    stored = hurried.project(PROJECT).sequences["ckpt-r1"].versions[-1]
    path = stored.blobs.path(stored.manifest_blob)
    manifest = json.loads(path.read_text())
    for entry in manifest["contents"].values():
        entry["size"] = 1
    path.write_text(json.dumps(manifest))
    size = (run.path / "checkpoints" / SECOND).stat().st_size
    assert f"more than the {size} bytes" in refused(named("latest"), cache, Limits(n_bytes=size))
