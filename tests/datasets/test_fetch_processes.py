"""Fetching between real processes, killed ones too, and on disks that refuse."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.datasets.fetch import FetchError, fetch
from perdure.errors import UserError

pytestmark = pytest.mark.process

if TYPE_CHECKING:
    from tests.datasets.conftest import Server

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
FETCH = """
import sys
from pathlib import Path
from perdure.datasets.fetch import fetch
fetch([sys.argv[1]], Path(sys.argv[2]), sha256=sys.argv[3])
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.datasets.fetch._PAUSES", (0.01, 0.02))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "data.bin"


@pytest.fixture
def url(server: Server) -> str:
    server.files["/data.bin"] = DATA
    return server.url("/data.bin")


def get(path: Path, *urls: str, limit: int = 1 << 20, timeout: float = 5.0) -> None:
    assert fetch(urls, path, sha256=SHA256, limit=limit, timeout=timeout) == path
    assert path.read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def _start(url: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, url, str(path), SHA256]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def _until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_two_processes_fetch_once(server: Server, url: str, path: Path) -> None:
    gate = threading.Event()
    server.script.append(server.gated(gate, 100_000))
    first = _start(url, path)
    _until(lambda: bool(server.requests))
    second = _start(url, path)
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    gate.set()
    for process in (first, second):
        process.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert server.requests == [("/data.bin", None)]
    assert server.sent == len(DATA)
    get(path)


def test_a_killed_process_loses_nothing(server: Server, url: str, path: Path) -> None:
    server.script.append(server.gated(threading.Event(), 200_000))
    process = _start(url, path)
    part = path.with_name("data.bin.part")
    _until(lambda: part.exists() and part.stat().st_size > 100_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = part.stat().st_size
    get(path, url)
    assert server.requests[-1] == ("/data.bin", f"bytes={have}-")


def test_without_locks_each_process_writes_its_own_part(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    path.parent.mkdir()
    foreign = path.with_name("data.bin.part")
    foreign.write_bytes(b"of another process")
    fetch([url], path, sha256=SHA256)
    assert path.read_bytes() == DATA
    server.usual = server.cut(1_000)
    with pytest.raises(FetchError):
        fetch([url], path.with_name("data.bin"), sha256="0" * 64)
    assert sorted(path.parent.iterdir()) == [path, foreign]
    assert foreign.read_bytes() == b"of another process"


def test_a_folder_that_cannot_be_made_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*/file/root .*data\.root=FOLDER"):
        fetch([url], tmp_path / "file" / "root" / "data.bin", sha256=SHA256)


def test_a_full_disk_is_reported(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="No space left on device"):
        fetch([url], path, sha256=SHA256)
    assert not path.exists()
