"""Files that are either the old version or the new one, whatever kills the writer."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, durable: bool = True) -> None:
    """Put `data` in `path` in one step; a reader, or a power loss, sees all of it or none.

    What is not `durable` costs no wait for the disk, and may be lost or torn by a power loss.

    The temporary file has one fixed name beside `path`: a run folder has one writer, so what a
    kill left behind is overwritten by the next write and never piles up.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # it may be a link that leads out of the folder
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)
