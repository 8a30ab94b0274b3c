"""Whether a folder is in use is found out without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.checkpoint.core.lock import RunLock
from perdure.errors import UserError


def test_a_folder_in_use_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    held = RunLock(tmp_path)
    held.acquire()
    before = held.path.read_bytes()
    with pytest.raises(UserError, match=r"another run writes there \(process"):
        RunLock(tmp_path).require_free()
    assert held.path.read_bytes() == before
    held.release()
    RunLock(tmp_path).require_free()
    assert held.path.read_bytes() == before


def test_looking_takes_and_makes_nothing(tmp_path: Path) -> None:
    RunLock(tmp_path).require_free()
    assert not list(tmp_path.iterdir())
    held = RunLock(tmp_path)
    held.acquire()
    held.release()
    RunLock(tmp_path).require_free()
    RunLock(tmp_path).acquire()
