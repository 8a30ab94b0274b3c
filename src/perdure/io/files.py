"""Reading files from anywhere: checksums (MD5, SHA-256), ordinary files, JSON, links that lead out.

Atomic writes are in `atomic`, locks in `locking`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from perdure.errors import UserError

_BLOCK = 1 << 20
JSON_LIMIT = 1 << 20
"""Bytes of a small file of facts, such as a checkpoint's sidecar."""


def hasher(algorithm: str, data: bytes | memoryview = b"") -> hashlib._Hash:
    """MD5 is taken as a checksum only, which systems that forbid it for security still allow."""
    return hashlib.new(algorithm, data, usedforsecurity=algorithm != "md5")


def digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's checksum in hex; read in blocks, so its size does not matter. Raises OSError."""
    with path.open("rb") as file:
        return digest_of(file, algorithm)


def digest_of(file: BinaryIO, algorithm: str = "sha256") -> str:
    """The checksum, in hex, of what `file` holds from where it stands. Raises OSError."""
    state = hasher(algorithm)
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


def open_plain(path: Path, follow: bool = True) -> BinaryIO:
    """`path` opened for reading if it is an ordinary file; never waits for a pipe's other end.

    Args:
        path: the file.
        follow: whether a symbolic link is opened too.

    Raises:
        OSError: it is no ordinary file, or the system's own error.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(handle, "rb")


def is_own(path: Path, folder: Path) -> bool:
    """Whether `path` is an ordinary file that really lies in `folder`, by no link on the way."""
    try:
        ordinary = stat.S_ISREG(path.lstat().st_mode)
        return ordinary and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # nothing is there, or links in a circle
        return False


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """The value in the JSON file `path`, whoever wrote it.

    Raises:
        OSError: it is no ordinary file, is a link, or the system's own error.
        ValueError: as `parse_json`.
    """
    with open_plain(path, follow=False) as file:
        return parse_json(file.read(limit + 1), limit)


def parse_json(data: bytes, limit: int = JSON_LIMIT) -> Any:
    """The value that `data` holds as JSON: finite numbers, no name twice, no half characters.

    Raises:
        ValueError: it is no JSON, is longer than `limit` bytes, or nested without end.
    """
    if len(data) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    try:
        text = data.decode()
        value = json.loads(
            text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be shown
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


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
