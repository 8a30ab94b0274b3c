"""Lock of a run folder (flock): one writer; a second is refused, and the error names the first."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import NoReturn

from perdure.errors import UserError
from perdure.io.locking import RECORD_LIMIT, describe_holder, holder_record
from perdure.io.run_files import RunFiles


class RunLock:
    """Held from `acquire` until the process ends, however it ends; the kernel lets it go.

    Args:
        folder: the run's folder, which must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = RunFiles(folder).lock
        self._handle: int | None = None

    def acquire(self, patience: float = 0.0) -> None:
        """Take the lock.

        Args:
            patience: seconds to wait for a holder that may be about to end.

        Raises:
            UserError: another process writes to this folder; the message names it.
        """
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        deadline = time.monotonic() + patience
        while not (taken := _try(handle)) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not taken:
            self._refuse(handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder_record().encode(), 0)
        self._handle = handle

    def require_free(self) -> None:
        """Refuse as `acquire` would, and change nothing in the folder.

        Raises:
            UserError: another process writes to this folder.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return
        if not _try(handle):
            self._refuse(handle)
        os.close(handle)

    def _refuse(self, handle: int) -> NoReturn:
        record = os.pread(handle, RECORD_LIMIT, 0).decode(errors="replace")
        os.close(handle)
        holder = describe_holder(record) or "which one is not known"
        raise UserError(
            f"{self.path.parent}: another run writes there ({holder}); wait for it, "
            "or choose another folder"
        )

    def release(self) -> None:
        """Let the next writer in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
