"""Files on disk: checked as they are read, written whole or not at all, by one writer."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from perdure.errors import UserError

_BLOCK = 1 << 20


def hasher(algorithm: str, data: bytes | memoryview = b"") -> hashlib._Hash:
    """MD5 is taken as a checksum only, which systems that forbid it for security still allow."""
    return hashlib.new(algorithm, data, usedforsecurity=algorithm != "md5")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's checksum in hex; read in blocks, so its size does not matter. Raises OSError."""
    state = hasher(algorithm)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def matches(path: Path, *, md5: str | None = None, sha256: str | None = None) -> bool:
    """Whether a file is there and has the checksum."""
    algorithm, expected = ("md5", md5) if sha256 is None else ("sha256", sha256)
    try:
        return digest(path, algorithm) == expected
    except OSError:
        return False


@contextmanager
def writing(folder: Path, setting: str | None = None) -> Iterator[None]:
    """Turns an operating system's refusal to write in `folder` into a UserError.

    `setting`: the key of the configuration that names the folder, where there is one.
    """
    try:
        yield
    except OSError as error:
        other = f" with {setting}=FOLDER" if setting else ""
        raise UserError(
            f"cannot write in {folder} ({error.strerror}): free it, or name another folder{other}"
        ) from error


def require_own(folder: Path) -> None:
    """Refuse a folder of a run whose parts are links that lead out of it.

    Who writes there follows them, so a folder from elsewhere could have any file overwritten.

    Raises:
        UserError: names the link and where it leads.
    """
    home = folder.resolve()
    for here, folders, names in os.walk(home):
        everything = [*folders, *names]
        # W&B's client links to its logs elsewhere, and starts a new folder each time.
        folders[:] = [name for name in folders if name != "wandb"]
        for name in everything:
            path = Path(here, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise UserError(
                    f"{path}: a link out of the run's folder, to {path.resolve()}: nothing is "
                    "written through it; put a copy in its place, or choose another folder"
                )


@contextmanager
def locked(path: Path, setting: str | None = None) -> Iterator[bool]:
    """Holds `<name>.lock` beside `path` while one process writes it; the others wait.

    Yields False on a file system without locks: then write under a name of one's own only
    (`partial`).
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


def publish(part: Path, path: Path, setting: str | None = None) -> None:
    """Gives a finished file or folder its name, atomically, and makes the name last."""
    with writing(path.parent, setting):
        os.replace(part, path)
    with suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
