"""A file is the old version or the new one, whatever kills the writer; nothing follows a link."""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from checkpoint.crashsim import Disk, Recorder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.io.atomic import (
    publish,
    remove_temporaries,
    update_link,
    write_atomically,
    write_json,
    write_stream,
)


class Killed(BaseException):
    """The process is gone: nothing that follows runs."""


def kill_before(number: int) -> Callable[[int], None]:
    def before(at: int) -> None:
        if at >= number:
            raise Killed

    return before


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.binary(max_size=50), new=st.binary(max_size=50), at=st.integers(0, 12))
def test_a_reader_sees_the_old_file_or_the_new_one(
    tmp_path: Path, old: bytes, new: bytes, at: int
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(old)
    recorder = Recorder(tmp_path, kill_before(at))
    died = False
    with recorder.installed():
        try:
            write_atomically(path, new)
        except Killed:
            died = True
    renamed = any(operation.kind == "rename" for operation in recorder.log)
    assert path.read_bytes() == (new if renamed else old)
    assert renamed or died
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("durable", [True, False])
def test_after_power_loss_it_is_the_old_file_or_the_new_one(tmp_path: Path, durable: bool) -> None:
    recorder = Recorder(tmp_path)
    with recorder.installed():
        write_atomically(tmp_path / "results.json", b"old " * 300)
        first = len(recorder.log)
        write_atomically(tmp_path / "results.json", b"new " * 300, durable)
    draw = random.Random(0)
    found = {
        done: {tree.get("results.json") for tree in Disk(recorder.log[:done]).crashes(draw, 200)}
        for done in range(first, len(recorder.log) + 1)
    }
    torn = set().union(*found.values()) - {b"old " * 300, b"new " * 300}
    assert bool(torn) is not durable  # what need not be durable may be torn, so this can be seen
    if durable:
        assert found[len(recorder.log)] == {b"new " * 300}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perdure.io.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: write_atomically(path, b"{}\n"), id="bytes"),
        pytest.param(lambda path: write_json(path, {}), id="json"),
        pytest.param(lambda path: write_stream(path, lambda f: f.write(b"{}\n")), id="stream"),
    ],
)
def test_no_link_is_written_through(tmp_path: Path, write: Callable[[Path], object]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.json").symlink_to(victim)
    (tmp_path / ".tmp-0").symlink_to(victim)
    with patch.object(secrets, "token_hex", lambda n: "0"), pytest.raises(FileExistsError):
        write(tmp_path / "a.json")
    assert (tmp_path / ".tmp-0").is_symlink()
    write(tmp_path / "a.json")
    assert victim.read_text() == "mine"
    assert (tmp_path / "a.json").read_bytes() == b"{}\n"
    assert not (tmp_path / "a.json").is_symlink()


def test_what_is_written_is_hashed_and_counted(tmp_path: Path) -> None:
    digest = hashlib.sha256()

    def fill(file: object) -> None:
        for part in (b"one", b"two"):
            file.write(part)  # type: ignore[attr-defined]

    assert write_stream(tmp_path / "a", fill, digest) == 6
    assert digest.hexdigest() == hashlib.sha256(b"onetwo").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]], ids=str)
def test_no_json_is_written_that_not_everyone_reads(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert os.listdir(tmp_path) == []


def test_json_is_what_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None, "é"]}, indent=1)
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None, "é"]}


def test_a_link_is_there_at_every_instant(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    update_link(tmp_path / "best", tmp_path / "one")
    recorder = Recorder(tmp_path)
    with recorder.installed():
        update_link(tmp_path / "best", tmp_path / "one")
        assert recorder.log == []
        update_link(tmp_path / "best", tmp_path / "two")
    assert [operation.kind for operation in recorder.log] == ["symlink", "rename"]
    assert os.readlink(tmp_path / "best") == "two"


def test_what_is_published_replaces_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a.part").write_text("new")
    recorder = Recorder(tmp_path)
    with recorder.installed():
        publish(tmp_path / "a.part", tmp_path / "a")
    assert [operation.kind for operation in recorder.log] == ["rename", "sync folder"]
    assert (tmp_path / "a").read_text() == "new"
