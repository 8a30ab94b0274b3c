"""Write and read a checkpoint: one plain `torch.save` file and a JSON sidecar that commits it.

The protocol: the file is written atomically (`io.atomic`: a temporary file in the same folder,
hashed while it is written, fsync, rename to a name that is never used again, fsync of the folder),
then its sidecar by the same steps. A file without its sidecar does not count. Everything opens with
`torch.load(weights_only=True)`. tests/checkpoint/core/test_crash.py stops the protocol before every
operation and shows that each fsync is needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from perdure.checkpoint.core import archive, sidecars
from perdure.checkpoint.core.archive import LIMIT
from perdure.checkpoint.core.archive import DamagedError as DamagedError
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.migrate import migrated
from perdure.errors import UserError
from perdure.io import atomic
from perdure.io.files import digest_of, open_plain

FORMAT = 2
"""Number of the layout of a full file; a reader refuses a higher one."""


class NewerFormatError(UserError):
    """The file was written by a later version; an older file is no substitute for it."""


def write(path: Path, state: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write `state` to `path`, and `metadata` with size and hash to its sidecar, durably.

    Raises:
        FileExistsError: `path` is committed already; names are never used twice.
        TypeError: a part of the state can be no tensor and no plain value.
        OSError: the disk's own error; nothing half-written stays behind.
    """
    commit(path, plain({**state, "format": FORMAT}), metadata)


def commit(path: Path, content: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """`write` for a state that is plain already and holds its format number."""
    with _whole_or_not_at_all(path):
        digest = hashlib.sha256()
        n_bytes = atomic.write_stream(path, lambda file: torch.save(content, file), digest)
        proof = {"format": FORMAT, "bytes": n_bytes, "sha256": digest.hexdigest()}
        sidecars.write(path, {**metadata, **proof})


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
    """The metadata of `path`, once its bytes are seen to be the ones committed.

    Raises:
        DamagedError: they are not.
        UserError: as `committed`, or the file cannot be read.
    """
    metadata = committed(path)
    try:
        with open_plain(path) as file:
            digest = digest_of(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if digest != metadata["sha256"]:
        name = sidecars.path_of(path).name
        raise DamagedError(f"{path}: damaged (its SHA-256 is not the one in {name})")
    return metadata


def committed(path: Path) -> dict[str, Any]:
    """The metadata in the sidecar of `path`; the file's bytes are not read.

    Raises:
        DamagedError: it is no sidecar, or of a file of another size.
        UserError: no checkpoint is committed there, or its format is newer.
    """
    sidecar = sidecars.path_of(path)
    try:
        metadata = sidecars.read(path)
        if path.stat().st_size != metadata["bytes"]:
            raise ValueError("of a file of another size")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no checkpoint is committed there ({error.filename})") from None
    except ValueError as error:
        raise DamagedError(f"{path}: damaged (it does not fit {sidecar.name}: {error})") from None
    except OSError as error:
        raise UserError(f"{sidecar}: cannot be read ({error.strerror or error})") from None
    if metadata["format"] > FORMAT:
        raise NewerFormatError(
            f"{path}: format {metadata['format']} is newer than {FORMAT}, the newest this version "
            "of Perdure reads"
        )
    return metadata


def link(source: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Commit the bytes of the committed `source` under a second name, without a second copy.

    A hard link; where the file system has none, a copy.

    Raises:
        FileExistsError: `path` is committed already.
        UserError: as `committed`, of `source`.
        OSError: the disk's own error; nothing half-written stays behind.
    """
    known = committed(source)
    with _whole_or_not_at_all(path):
        path.unlink(missing_ok=True)
        try:
            os.link(source, path)
            atomic.sync_folder(path.parent)
        except OSError:
            atomic.write_atomically(path, source.read_bytes())
        proof = {key: known[key] for key in ("format", "bytes", "sha256")}
        sidecars.write(path, {**metadata, **proof})


def remove(path: Path) -> None:
    """Remove a checkpoint: first the sidecar, so that no half of it ever counts. Raises OSError."""
    sidecars.remove(path)
    path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Take a damaged checkpoint out of the way under a name that never counts; nothing is lost.

    Either of its two files may be missing. Returns the new name of the checkpoint.
    """
    n = 0
    while any(map(os.path.lexists, _aside(path, n))):
        n += 1
    aside, aside_sidecar = _aside(path, n)
    # The sidecar first, so that no half of it ever counts.
    for before, after in ((sidecars.path_of(path), aside_sidecar), (path, aside)):
        if os.path.lexists(before):
            before.rename(after)
    return aside


def _aside(path: Path, n: int) -> tuple[Path, Path]:
    """The n-th names under which a checkpoint and its sidecar are set aside."""
    aside = path.with_name(f"{path.name}.damaged-{n}")
    return aside, aside.with_name(f"{aside.name}.sidecar")


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[None]:
    if sidecars.path_of(path).exists():
        raise FileExistsError(f"{path} exists already")
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            remove(path)
        raise
