"""Object stores: fsspec's own in-memory store, standing where a bucket would."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from checkpoint.fetching import DATA, OTHER, PINNED, get, refused
from fsspec.implementations.memory import MemoryFileSystem

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.remote.references import resolve
from perdure.errors import UserError
from perdure.io.transfer import Limits

REF = "s3://bucket/runs/er.pt"
RESET = ConnectionResetError("reset by\npeer")


class Reading(io.BytesIO):
    """One reading of a file: as it was when it was opened, with the faults of its store."""

    def read(self, size: int | None = -1, /) -> bytes:
        Store.reads.append(self.tell())
        fault = Store.faults.popleft() if Store.faults else None
        if fault is not None:
            raise fault
        return super().read(size)


class Store(MemoryFileSystem):
    """`faults`: raised by the next reads, None for none; `lies`: what `info` says that is not so.

    `opened` and `reads`: which files were opened, and from where each block was read.
    """

    protocol = "s3"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    opened: ClassVar[list[str]] = []
    reads: ClassVar[list[int]] = []
    faults: ClassVar[deque[Exception | None]] = deque()
    lies: ClassVar[dict[str, Any]] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {**super().info(path, **options), **self.lies}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        self.opened.append(path)
        return Reading(super()._open(path, mode, **options).getvalue())


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("perdure.checkpoint.remote.cache._PAUSES", (0.01, 0.02))
    monkeypatch.setattr("perdure.io.object_store._BLOCK", 100_000)
    for kept in (Store.store, Store.opened, Store.reads, Store.faults, Store.lies):
        kept.clear()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Store)
    made = Store()
    made.pipe(REF, DATA)
    return made


def test_a_file_of_a_bucket(store: Store, cache: Path) -> None:
    path = get(REF, cache)
    assert path.name.endswith("-er.pt")
    assert get(REF, cache) == path
    assert store.opened == [REF]


def test_a_pinned_file_is_requested_once(store: Store, cache: Path) -> None:
    path = get(REF + PINNED, cache)
    store.rm(REF)
    assert get(REF + PINNED, cache) == path
    assert store.opened == [REF]


def test_a_wrong_pin_keeps_nothing(store: Store, cache: Path) -> None:
    assert "not the pinned one" in refused(f"{REF}#sha256={'0' * 64}", cache)


def test_a_changed_file_is_fetched(store: Store, cache: Path) -> None:
    get(REF, cache)
    store.pipe(REF, OTHER)
    get(REF, cache, OTHER)


def test_a_checkpoint_of_ours_can_be_read(store: Store, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "er.pt"
    files.write(path, {"w": torch.ones(3)}, {"position": {}})
    store.pipe({REF: path.read_bytes(), f"{REF}.json": sidecars.path_of(path).read_bytes()})
    for _ in range(2):
        assert torch.equal(files.read(resolve(REF, cache))["w"], torch.ones(3))
    assert store.opened == [REF, f"{REF}.json"]


def test_a_broken_transfer_resumes(store: Store, cache: Path) -> None:
    store.faults.extend([None, RESET])
    get(REF, cache)
    assert store.reads == [0, 100_000, 100_000, 200_000, 300_000]


@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_a_later_call_resumes(store: Store, cache: Path, pin: str) -> None:
    store.faults.extend([None, RESET, RESET, RESET])
    message = refused(REF + pin, cache, part=True)
    assert message == f"{REF} could not be fetched: bucket: ConnectionResetError: reset by peer"
    get(REF + pin, cache)
    assert store.reads[4:] == [100_000, 200_000, 300_000]


def test_a_file_that_changed_meanwhile_is_taken_whole(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.checkpoint.remote.cache._PAUSES", ())
    store.faults.extend([None, RESET])
    refused(REF, cache, part=True)
    store.pipe(REF, OTHER)
    get(REF, cache, OTHER)
    assert store.reads[2] == 0


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (PermissionError("no rights"), 1),
        (FileNotFoundError("gone"), 1),
        (TimeoutError("silent"), 3),
        (RuntimeError("Unable to locate credentials"), 3),
    ],
    ids=["rights", "gone", "timeout", "credentials"],
)
def test_every_error_of_a_store_is_one_sentence(
    store: Store, cache: Path, fault: Exception, tries: int
) -> None:
    store.faults.extend([fault] * 3)
    assert str(fault) in refused(REF, cache)
    assert len(store.reads) == tries


def test_a_store_that_does_not_answer_costs_one_warning(
    store: Store, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = get(REF, cache)
    store.pipe(REF, OTHER)
    store.faults.extend([RESET] * 3)
    assert resolve(REF, cache) == path
    assert path.read_bytes() == DATA
    assert len(caplog.messages) == 1


def test_a_missing_file(store: Store, cache: Path) -> None:
    assert "FileNotFoundError" in refused("s3://bucket/none.pt", cache)


def test_a_folder_is_no_file(store: Store, cache: Path) -> None:
    assert "it is a folder" in refused("s3://bucket/runs", cache)


def test_a_file_too_large_is_not_opened(store: Store, cache: Path) -> None:
    assert "offers 300000 bytes" in refused(REF, cache, limit=299_999)
    assert not store.reads
    assert resolve(REF, cache, limits=Limits(n_bytes=300_000)).read_bytes() == DATA


def test_a_file_larger_than_stated_is_stopped(store: Store, cache: Path) -> None:
    store.lies["size"] = None
    assert "more than the 299999 bytes" in refused(REF, cache, limit=299_999)


@pytest.mark.parametrize("size", [300_001, 299_999], ids=["truncated", "too-long"])
def test_a_file_of_another_size_than_stated_is_not_kept(
    store: Store, cache: Path, size: int
) -> None:
    store.lies["size"] = size
    assert f"of {size} bytes" in refused(REF, cache, part=size > len(DATA))


@pytest.mark.parametrize("n_blocks", [-1, 0, 1], ids=["asked", "opened", "sending"])
def test_a_store_that_hangs_is_left(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch, n_blocks: int
) -> None:
    gate, read, info = threading.Event(), Reading.read, Store.info

    def hang(reading: Reading, size: int | None = -1) -> bytes:
        if len(Store.reads) == n_blocks:
            gate.wait(120)
        return read(reading, size)

    def hang_when_asked(self: Store, path: str, **options: Any) -> dict[str, Any]:
        if n_blocks == -1:
            gate.wait(120)
        return info(self, path, **options)

    monkeypatch.setattr(Reading, "read", hang)
    monkeypatch.setattr(Store, "info", hang_when_asked)
    began = time.monotonic()
    message = refused(REF, cache, seconds=3, part=n_blocks > 0)
    gate.set()
    assert time.monotonic() - began < 60
    assert "it takes longer than checkpoint.max_minutes=0.05 allows" in message
    assert f" {max(n_blocks, 0) * 100_000} bytes arrived" in message


def test_an_unstated_size_is_accepted_only_if_pinned(store: Store, cache: Path) -> None:
    store.lies["size"] = None
    assert "does not mark where the file ends" in refused(REF, cache)
    get(REF + PINNED, cache)


def test_one_store_only(store: Store, cache: Path) -> None:
    with pytest.raises(UserError, match="without ::"):
        resolve(f"s3://x::{REF}", cache)
    assert not store.opened
