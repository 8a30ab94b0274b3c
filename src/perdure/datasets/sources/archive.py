"""Extract files of a tar archive into a folder, atomically: it appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from perdure.datasets.files import ROOT, DamagedError
from perdure.io.atomic import publish
from perdure.io.files import writing
from perdure.io.locking import part_path


def extract(archive: Path, inside: str, names: Iterable[str], folder: Path, has_lock: bool) -> None:
    """Puts the regular files `inside/<name>` of a gzipped tar into `folder`, replacing that whole.

    Paths are made from `names`, never taken from the archive, so nothing in it can escape.
    `has_lock`: whether the caller holds the lock of `folder`.
    Raises DamagedError where a file is missing or torn.
    """
    missing = {f"{inside}/{name}": name for name in names}
    part = part_path(folder, has_lock)
    with writing(folder.parent, ROOT):
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed here
        part.mkdir(parents=True)
    try:
        _unpack(archive, missing, part)
        if missing:
            raise DamagedError(archive, f"it holds no {', '.join(missing)}")
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: Path, missing: dict[str, str], part: Path) -> None:
    """Removes from `missing` what was found."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isreg() and member.name in missing:
                    content = tar.extractfile(member)
                    if content is not None:
                        _write(part / missing.pop(member.name), content.read())
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DamagedError(archive, f"it does not unpack: {error}") from error


def _write(path: Path, data: bytes) -> None:
    with writing(path.parent, ROOT), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(part: Path, folder: Path) -> None:
    old = part_path(folder.with_name(f"{folder.name}.old"), has_lock=False)
    if folder.exists():
        with writing(folder.parent, ROOT):
            os.replace(folder, old)
    publish(part, folder, ROOT)
    shutil.rmtree(old, ignore_errors=True)
