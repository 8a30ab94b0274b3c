"""Atomic writes: a file is either the old version or the new one, whatever kills the writer.

The one way in which files are replaced: a temporary file with a fresh name in the same folder,
fsync of the file, rename (os.replace), fsync of the folder. Nothing is ever written through a
symbolic link. A writer that is killed leaves its temporary file behind, which stands in nobody's
way; whoever holds a folder's lock removes it (`remove_temporaries`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from perdure.io.files import writing

_TEMPORARY = ".tmp-"
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EINVAL)


class Digest(Protocol):
    """A hash of `hashlib`, which is fed while a file is written."""

    def update(self, data: Any, /) -> None: ...


def write_stream(
    path: Path,
    fill: Callable[[Any], object],
    digest: Digest | None = None,
    *,
    durable: bool = True,
) -> int:
    """Create or replace `path` by what `fill` writes to a binary file; returns the bytes written.

    Args:
        path: where the file appears; a link there is replaced, not followed.
        fill: gets a writable binary file that cannot seek.
        digest: is updated with everything written.
        durable: whether the file, and its name, survive power loss once this returns. Without it
            there is no wait for the disk, and power loss may leave a torn file.

    Raises:
        OSError: the disk's own error; what was at `path` before is still there, unless only the
            last fsync, that of the folder, failed.
    """
    temporary = _beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(temporary, flags, 0o666)
    with _removed_after_an_error(temporary):
        with os.fdopen(handle, "wb") as file:
            stream = _Stream(file, digest)
            try:
                fill(stream)
            except RuntimeError as error:
                raise stream.error or error from None
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)
    return stream.n_bytes


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """`write_stream` for bytes that are at hand."""
    write_stream(path, lambda file: file.write(data), durable=durable)


def write_json(path: Path, value: Any, *, indent: int | None = None, durable: bool = True) -> None:
    """`write_stream` for a value as JSON, with a newline at the end.

    Raises:
        OSError: as `write_stream`.
        ValueError: `value` holds a number that is not finite.
        TypeError: it holds what JSON cannot.
    """
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    write_atomically(path, text.encode(), durable)


def update_link(path: Path, target: Path) -> None:
    """Let the symbolic link `path` name `target`, in the same folder, in one step.

    Nothing waits for the disk: after power loss it may be the old link. Raises OSError.
    """
    if path.is_symlink() and os.readlink(path) == target.name:
        return
    temporary = _beside(path)
    temporary.symlink_to(target.name)
    with _removed_after_an_error(temporary):
        os.replace(temporary, path)


def publish(part: Path, path: Path, setting: str | None = None) -> None:
    """Give a finished file or folder, written and synced elsewhere on this disk, its name.

    The name survives power loss, where the file system can sync a folder.

    Args:
        part: what is finished.
        path: its name from now on; a file there is replaced.
        setting: the key of the configuration that names the folder, for the error.

    Raises:
        UserError: the folder cannot be written to.
    """
    with writing(path.parent, setting):
        os.replace(part, path)
    with suppress(OSError):
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` such that it survives power loss, as its files cannot without it.

    All folders above are synced, since the run's own may be just as young. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.absolute().parents:
        try:
            sync_folder(parent)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk (fsync). Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only for who holds the lock of its run."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a writer that was killed left `path`, or one is writing it."""
    return path.name.startswith(_TEMPORARY)


def _beside(path: Path) -> Path:
    """A new name each time: what a killed writer left never stands in the way."""
    return path.with_name(_TEMPORARY + secrets.token_hex(8))


@contextmanager
def _removed_after_an_error(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            temporary.unlink(missing_ok=True)
        raise


class _Stream(BufferedIOBase):
    """A file that hashes what is written to it, and keeps its error, which torch.save hides."""

    def __init__(self, file: BinaryIO, digest: Digest | None) -> None:
        self.file = file
        self.digest = digest
        self.n_bytes = 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self.digest is not None:
            self.digest.update(data)
        self.n_bytes += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()
