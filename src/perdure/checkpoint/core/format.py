"""One plain `torch.save` file and a JSON sidecar whose rename commits it.

The protocol: a temporary file in the same folder, hashed while it is written, fsync, rename to a
name that is never used again, fsync of the folder; then the sidecar by the same steps. A file
without its sidecar does not count. Everything opens with `torch.load(weights_only=True)`.
tests/checkpoint/test_crash.py stops it before every operation and shows that each fsync is needed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

import torch

from perdure.checkpoint.core import archive, sidecars
from perdure.checkpoint.core.archive import LIMIT
from perdure.checkpoint.core.archive import DamagedError as DamagedError
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.migrate import migrated
from perdure.errors import UserError
from perdure.io.files import open_plain

FORMAT = 2
"""Number of the layout of a full file; a reader refuses a higher one."""

_TEMPORARY = ".tmp-"
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EINVAL)


class NewerFormatError(UserError):
    """The file was written by a later version; an older file is no substitute for it."""


def write(path: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write `state` to `path`, and `about` with size and hash to its sidecar, durably.

    Raises:
        FileExistsError: `path` is committed already; names are never used twice.
        OSError: the disk's own error; nothing half-written stays behind.
    """
    commit(path, plain({**state, "format": FORMAT}), about)


def commit(path: Path, content: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """`write` for a state that is plain already and holds its format number."""
    with _whole_or_not_at_all(path):
        digest, size = replace(path, lambda file: torch.save(content, file))
        _seal(path, {**about, "format": FORMAT, "bytes": size, "sha256": digest})


def read(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The state in `path`, in today's terms, verified against its sidecar.

    The sidecar spares it no other check.

    Args:
        path: the file.
        limit: bytes that it may have, and its tensors together.

    Raises:
        UserError: as `committed` and `archive.load`.
    """
    return migrated(archive.load(path, limit, committed(path)["sha256"]))


def verify(path: Path) -> dict[str, Any]:
    """What the sidecar of `path` says, once its bytes are seen to be the ones committed.

    Raises:
        DamagedError: they are not.
        UserError: as `committed`, or the file cannot be read.
    """
    about = committed(path)
    try:
        with open_plain(path) as file:
            digest = _sha256(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if digest != about["sha256"]:
        raise DamagedError(f"{path}: damaged (its SHA-256 is not the one in {sidecar(path).name})")
    return about


def committed(path: Path) -> dict[str, Any]:
    """What the sidecar of `path` says; its bytes are not read.

    Raises:
        DamagedError: it is no sidecar, or of a file of another size.
        UserError: no checkpoint is committed there, or its format is newer.
    """
    beside = sidecar(path)
    try:
        about = sidecars.read(beside)
        if path.stat().st_size != about["bytes"]:
            raise ValueError("of a file of another size")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no checkpoint is committed there ({error.filename})") from None
    except ValueError as error:
        raise DamagedError(f"{path}: damaged (it does not fit {beside.name}: {error})") from None
    except OSError as error:
        raise UserError(f"{beside}: cannot be read ({error.strerror or error})") from None
    if about["format"] > FORMAT:
        raise NewerFormatError(
            f"{path}: format {about['format']} is newer than {FORMAT}, the newest this version "
            "of Perdure reads"
        )
    return about


def link(source: Path, path: Path, about: Mapping[str, Any]) -> None:
    """Commit the bytes of the committed `source` under a second name, without a second copy.

    A hard link; where the file system has none, a copy.

    Raises:
        FileExistsError: `path` is committed already.
        UserError: as `committed`, of `source`.
    """
    known = committed(source)
    with _whole_or_not_at_all(path):
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
            _sync_folder(path.parent)
        except OSError:
            replace(path, lambda file: file.write(source.read_bytes()))
        _seal(path, {**about, **{key: known[key] for key in ("format", "bytes", "sha256")}})


def point(path: Path, target: Path) -> None:
    """Let the symbolic link `path` name `target`, in the same folder, in one step."""
    if path.is_symlink() and os.readlink(path) == target.name:
        return
    temporary = path.with_name(_TEMPORARY + secrets.token_hex(8))
    temporary.symlink_to(target.name)
    os.replace(temporary, path)


def remove(path: Path) -> None:
    """Take a checkpoint away: first the sidecar, so that no half of it ever counts."""
    sidecar(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Take a damaged checkpoint out of the way under a name that never counts; nothing is lost."""
    n = 0
    while (aside := path.with_name(f"{path.name}.damaged-{n}")).exists():
        n += 1
    sidecar(path).rename(aside.with_name(f"{aside.name}.sidecar"))
    if path.exists():
        path.rename(aside)


def make_folder(folder: Path) -> None:
    """Make `folder` such that it survives power loss, as its files cannot without it.

    All folders above are synced, since the run's own may be just as young.

    Raises:
        OSError: the disk's own error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.absolute().parents:
        try:
            _sync_folder(parent)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only for who holds the run's lock."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


def sidecar(path: Path) -> Path:
    """The JSON file whose presence commits `path`."""
    return path.with_name(path.name + ".json")


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[None]:
    if sidecar(path).exists():
        raise FileExistsError(f"{path} exists already")
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            remove(path)
        raise


def _seal(path: Path, facts: Mapping[str, Any]) -> None:
    """Commit `path`: its sidecar appears."""
    text = json.dumps(facts, indent=1).encode()
    replace(sidecar(path), lambda file: file.write(text))


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


class _Hashing(BufferedIOBase):
    """A file that hashes what is written to it, and keeps its error, which torch.save hides."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        self.size += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def replace(path: Path, fill: Callable[[Any], object]) -> tuple[str, int]:
    """Create `path` whole or not at all; returns its SHA-256 and size.

    The temporary name is new each time: what a killed writer left never stands in the way.
    """
    temporary = path.with_name(_TEMPORARY + secrets.token_hex(8))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(temporary, flags, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            stream = _Hashing(file)
            try:
                fill(stream)
            except RuntimeError as error:
                raise stream.error or error from None
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return stream.digest.hexdigest(), stream.size


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
