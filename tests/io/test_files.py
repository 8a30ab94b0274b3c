"""The lock that one writer of a file holds."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure.errors import UserError
from perdure.io.files import matches
from perdure.io.locking import locked
from perdure.io.transfer import Limits, Transfer


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


def test_who_waits_too_long_is_given_the_lock_and_its_holder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = Limits(0.3, 1, "data")
    with locked(tmp_path / "data.gz"):
        here = rf"another process \(process {os.getpid()} on \S+\)"
        with (
            pytest.raises(UserError, match=rf"data\.gz\.lock: {here} has held .* 0\.005 minutes"),
            locked(tmp_path / "data.gz", transfer=Transfer(limits)),
        ):
            pytest.fail("two hold the lock")
        assert re.match(rf"waiting for {here} to fetch data\.gz, up to", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"pid": 1, "host": "\\u001b[2J"}', b"\xff"]
)
def test_a_lock_that_does_not_say_who_holds_it(tmp_path: Path, content: bytes) -> None:
    with locked(tmp_path / "data"):
        (tmp_path / "data.lock").write_bytes(content)
        with (
            pytest.raises(UserError, match=r"data\.lock: another process has held"),
            locked(tmp_path / "data", transfer=Transfer(Limits(0.0, 1))),
        ):
            pytest.fail("two hold the lock")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "data.lock").symlink_to("other")
    with pytest.raises(UserError, match="cannot write in"), locked(tmp_path / "data"):
        pytest.fail("a link is no lock")
    assert (tmp_path / "other").read_text() == "mine"


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
