"""File locks (flock): one process writes a file, the others wait for it, up to a time limit."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from perdure.errors import UserError
from perdure.io.files import writing
from perdure.io.transfer import Transfer

RECORD_LIMIT = 1000
"""Bytes of a lock's file that are read."""

_PATIENCE = 10 * 60.0  # seconds to wait for a lock outside of a transfer
_POLL = 0.1


@contextmanager
def locked(
    path: Path, setting: str | None = None, transfer: Transfer | None = None
) -> Iterator[bool]:
    """Hold `<name>.lock` beside `path` while one process writes it; the others wait.

    Yields False on a file system without locks: then write under a name of one's own only
    (`part_path`).

    Args:
        path: the file or folder that is written; the folder that it lies in is made.
        setting: the key of the configuration that names that folder, for the error.
        transfer: what the lock is for; it waits as long as that may take, else ten minutes.

    Raises:
        UserError: the lock's file cannot be made, or another process keeps the lock.
    """
    name = path.with_name(f"{path.name}.lock")
    seconds = _PATIENCE if transfer is None else transfer.seconds_left
    deadline, waits = time.monotonic() + seconds, False
    while True:
        with writing(path.parent, setting):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(name, "a+", errors="replace", opener=_no_link)  # noqa: SIM115
        with lock:
            held = _acquire(lock)
            if held is None:
                _wait(lock, name, seconds, deadline, waits)
                waits = True
                continue
            # Whoever held the lock removed its file: a lock on a removed file excludes nobody.
            if held and not _same_file(lock, name):
                continue
            try:
                yield held
            finally:
                with suppress(OSError):
                    name.unlink()
            return


def part_path(path: Path, has_lock: bool) -> Path:
    """Where `path` is built up: `<name>.part`, found again later; without a lock, a unique name."""
    return path.with_name(
        f"{path.name}.part" if has_lock else f"{path.name}.{uuid.uuid4().hex}.part"
    )


def holder_record() -> str:
    """What this process writes into the file of a lock that it holds."""
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()})


def describe_holder(record: str) -> str | None:
    """`process 12 on host`, from the content of a lock's file; None where it does not say."""
    try:
        holder = json.loads(record)
        pid, host = int(holder["pid"]), str(holder["host"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return f"process {pid} on {host}" if host.isprintable() else None


def _acquire(lock: IO[str]) -> bool | None:
    """Whether the lock is held now; False where there are no locks, None where another has it."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except (ImportError, OSError):
        return False
    with suppress(OSError):  # it only tells others whom they wait for
        lock.truncate(0)
        lock.write(holder_record())
        lock.flush()
    return True


def _wait(lock: IO[str], name: Path, seconds: float, deadline: float, waited: bool) -> None:
    """Pause before the next attempt, with a notice at the first one. Raises UserError."""
    lock.seek(0)
    holder = describe_holder(lock.read(RECORD_LIMIT))
    who = "another process" + (f" ({holder})" if holder else "")
    minutes = f"{seconds / 60:.3g} minutes"
    if time.monotonic() >= deadline:
        raise UserError(
            f"{name}: {who} has held this lock for {minutes}; end it if it hangs, or run this "
            "again once it is done"
        )
    if not waited:
        notice = f"waiting for {who} to fetch {name.stem}, up to {minutes}"
        print(notice, file=sys.stderr, flush=True)
    time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _same_file(lock: IO[str], name: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), name.stat())
    return False
