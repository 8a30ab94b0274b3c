from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.io.atomic import write_atomically


class Killed(BaseException):
    """The process is gone: nothing that follows runs."""


class FaultyFile:
    """Passes on at most `budget` bytes, then the process dies."""

    def __init__(self, file: Any, budget: int) -> None:
        self._file, self._budget = file, budget

    def write(self, data: bytes) -> int:
        self._file.write(data[: self._budget])
        self._file.flush()
        if len(data) > self._budget:
            raise Killed
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.binary(max_size=50),
    new=st.binary(max_size=50),
    budget=st.integers(0, 60),
    dies_at=st.sampled_from(["write", "fsync", "replace", "never"]),
)
def test_a_reader_sees_the_old_file_or_the_new_one(
    tmp_path: Path, old: bytes, new: bytes, budget: int, dies_at: str
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(old)
    real_open = Path.open

    def open_faulty(self: Path, mode: str = "r") -> FaultyFile:
        return FaultyFile(real_open(self, mode), budget if dies_at == "write" else 1000)

    def die(*arguments: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_faulty)
        if dies_at in {"fsync", "replace"}:
            patch.setattr(f"perdure.io.atomic.os.{dies_at}", die)
        died = False
        try:
            write_atomically(path, new)
        except Killed:
            died = True
    assert path.read_bytes() == (old if died else new)
    write_atomically(path, new)
    assert path.read_bytes() == new
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perdure.io.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.json.tmp").symlink_to(victim)
    write_atomically(tmp_path / "a.json", b"{}")
    assert victim.read_text() == "mine"
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert not (tmp_path / "a.json").is_symlink()
