"""One plain `torch.save` file and a JSON sidecar whose rename commits it.

The protocol: a temporary file in the same folder, hashed while it is written, fsync, rename to a
name that is never used again, fsync of the folder; then the sidecar by the same steps. A file
without its sidecar does not count. Everything opens with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from io import BufferedIOBase
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import torch

from perdure.errors import UserError

FORMAT = 1
"""Number of the layout of a full file; a reader refuses a higher one."""


def plain(value: Any, where: str = "state") -> Any:
    """`value` made of tensors, dicts, lists, strings, numbers and None only.

    Tensors come to the host as copies of just their elements (a view of a large storage would
    write all of it).

    Raises:
        TypeError: a part has no such form; the message names it.
    """
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {plain(k, where): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(value, list | deque):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(plain(v, where) for v in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, PurePath | date | datetime):
        return str(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def write(path: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write `state` to `path`, and `about` with size and hash to its sidecar, durably.

    Raises:
        FileExistsError: `path` is committed already; names are never used twice.
        OSError: the disk's own error; nothing half-written stays behind.
    """
    if sidecar(path).exists():
        raise FileExistsError(f"{path} exists already")
    content = plain({**state, "format": FORMAT})
    digest, size = _replace(path, lambda file: torch.save(content, file))
    facts = {**about, "format": FORMAT, "bytes": size, "sha256": digest}
    _replace(sidecar(path), lambda file: file.write(json.dumps(facts, indent=1).encode()))


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, verified against its sidecar.

    Raises:
        UserError: no committed checkpoint is there, it is damaged, or its format is newer.
    """
    about = _sidecar_of(path)
    if about["format"] > FORMAT:
        raise UserError(
            f"{path}: format {about['format']} is newer than {FORMAT}, the newest this version "
            "of Perdure reads"
        )
    with path.open("rb") as file:
        digest = _sha256(file)
    if digest != about["sha256"]:
        raise UserError(f"{path}: damaged (its SHA-256 is not the one in {sidecar(path).name})")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def remove(path: Path) -> None:
    """Take a checkpoint away: first the sidecar, so that no half of it ever counts."""
    sidecar(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def sidecar(path: Path) -> Path:
    """The JSON file whose presence commits `path`."""
    return path.with_name(path.name + ".json")


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _sidecar_of(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(sidecar(path).read_text())
        if path.stat().st_size != about["bytes"] or not isinstance(about["format"], int):
            raise ValueError
    except FileNotFoundError as error:
        raise UserError(f"{path}: no checkpoint is committed there ({error.filename})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged (it does not fit {sidecar(path).name})") from None
    return about


class _Hashing(BufferedIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _replace(path: Path, fill: Any) -> tuple[str, int]:
    """Create `path` whole or not at all; returns its SHA-256 and size."""
    temporary = path.with_name(f".tmp-{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(temporary, flags, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            stream = _Hashing(file)
            fill(stream)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
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
