"""Writes in the background, one at a time; an error surfaces at the next step."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Writer:
    """Runs one job at a time in a thread (a forked writer would hang after OpenMP)."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin `job` when the one before it has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong in the background, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
