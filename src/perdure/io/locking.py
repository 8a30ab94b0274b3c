"""File locks (flock): one process writes a file, the others wait for it."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from perdure.io.files import writing


@contextmanager
def locked(path: Path, setting: str | None = None) -> Iterator[bool]:
    """Hold `<name>.lock` beside `path` while one process writes it; the others wait.

    Yields False on a file system without locks: then write under a name of one's own only
    (`partial`).

    Args:
        path: the file or folder that is written; the folder that it lies in is made.
        setting: the key of the configuration that names that folder, for the error.

    Raises:
        UserError: the lock's file cannot be made.
    """
    name = path.with_name(f"{path.name}.lock")
    while True:
        with writing(path.parent, setting):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = name.open("a")
        with lock:
            alone = _acquire(lock, path)
            # Whoever held the lock removed its file: a lock on a removed file excludes nobody.
            if alone and not _same_file(lock, name):
                continue
            try:
                yield alone
            finally:
                with suppress(OSError):
                    name.unlink()
            return


def partial(path: Path, alone: bool) -> Path:
    """Where `path` is built up: `<name>.part`, found again later; without a lock, a unique name."""
    return path.with_name(f"{path.name}.part" if alone else f"{path.name}.{uuid.uuid4().hex}.part")


def _acquire(lock: IO[str], path: Path) -> bool:
    try:
        import fcntl

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process to fetch {path.name}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return False
    return True


def _same_file(lock: IO[str], name: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), name.stat())
    return False
