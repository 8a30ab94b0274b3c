"""The lock that one writer of a file holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure.io.files import matches
from perdure.io.locking import locked


def test_never_two_hold_the_lock_though_its_file_goes_each_time(tmp_path: Path) -> None:
    inside = threading.Semaphore()

    def write() -> None:
        for _ in range(15):
            with locked(tmp_path / "data") as alone:
                assert alone
                assert inside.acquire(blocking=False)
                time.sleep(0.001)
                inside.release()

    with ThreadPoolExecutor(6) as pool:
        for writer in [pool.submit(write) for _ in range(6)]:
            writer.result()
    assert not list(tmp_path.iterdir())


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "data"):
        raise KeyError
    with locked(tmp_path / "data") as alone:
        assert alone


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    ],
)
def test_what_is_no_such_file_does_not_match(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "data")
    assert not matches(tmp_path / "data", sha256="0" * 64)
