"""Limits of a transfer (timeout and maximum size as a whole), and the interface of its sources.

A source sends one file from some byte on: over HTTP (`http`), from an object store
(`object_store`). `download` retries and resumes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

FileVersion = Mapping[str, str]
"""A server's description of its file (ETag, date, …); equal `exact` entries promise equal bytes."""

_POLL = 1.0  # seconds between two checks of what has arrived in a thread
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """Timeout and maximum size of a transfer as a whole.

    Attributes:
        seconds: from its start to its end, whatever it waits for.
        n_bytes: the most that all attempts together may receive.
        group: the config group whose `max_minutes` and `max_gigabytes` these are.
    """

    seconds: float = 60 * 60.0
    n_bytes: int = 20 * 10**9
    group: str = "checkpoint"

    @property
    def time(self) -> str:
        """The limit of time as the user sets it."""
        return f"{self.group}.max_minutes={self.seconds / 60:g}"

    @property
    def size(self) -> str:
        """The limit of size as the user sets it."""
        return f"{self.group}.max_gigabytes={self.n_bytes / 1e9:g}"


DEFAULT_LIMITS = Limits()
"""Those of a checkpoint, where the configuration sets no others."""


class OverLimitError(Exception):
    """A transfer has reached its limit; the message names it, and how far the transfer got."""


class Transfer:
    """A transfer under way: when it began, and how many bytes it has received."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.n_bytes = 0
        self._began = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Seconds that remain; 0 where none do."""
        return max(0.0, self.limits.seconds - (time.monotonic() - self._began))

    def remaining(self, uncounted: int = 0) -> float:
        """Seconds that remain.

        Args:
            uncounted: bytes that have arrived but are not counted yet.

        Raises:
            OverLimitError: no time remains, or there are too many bytes.
        """
        limits, n_bytes = self.limits, self.n_bytes + uncounted
        if n_bytes > limits.n_bytes:
            raise OverLimitError(
                f"it sends more than the {limits.n_bytes} bytes that {limits.size} allows"
            )
        passed = time.monotonic() - self._began
        if passed >= limits.seconds:
            raise OverLimitError(
                f"it takes longer than {limits.time} allows, {n_bytes} bytes arrived in "
                f"{passed:.1f} seconds (a larger value waits longer)"
            )
        return limits.seconds - passed

    def count(self, n_bytes: int) -> None:
        """Add bytes that have arrived. Raises OverLimitError."""
        self.n_bytes += n_bytes
        self.remaining()

    def pause(self, seconds: float) -> None:
        """Wait so long, or until the time is over. Raises OverLimitError."""
        time.sleep(min(seconds, self.remaining()))
        self.remaining()

    def timeout(self, silence: float) -> float:
        """Seconds to wait for the next byte, where a server may be silent for `silence` seconds.

        Raises OverLimitError.
        """
        return min(silence, self.remaining())

    def bounded(self, work: Callable[[], _T], arrived: Callable[[], int] = int) -> _T:
        """Return `work()`, for work that takes no timeout, or cannot be trusted with one.

        It runs in a thread. At the limit the thread is abandoned; it does not keep the process from
        ending.

        Args:
            work: what to do.
            arrived: gives the bytes that it has received so far and that are not counted yet.

        Raises:
            OverLimitError: the limit is reached. Whatever `work` raises is raised too.
        """
        outcome = Future[_T]()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        left = self.remaining()
        threading.Thread(target=run, daemon=True).start()
        while not wait([outcome], min(left, _POLL)).done:
            left = self.remaining(arrived())
        return outcome.result()


class RefusedError(Exception):
    """A source refuses the file; a retry cannot help."""


class InterruptedTransferError(Exception):
    """A transfer ended early; a retry may resume it."""


@dataclass(frozen=True)
class Response:
    """What a source sends: the file from byte `start` on.

    Attributes:
        blocks: the bytes.
        start: index of the first one in the file.
        total: bytes of the whole file, where the server states it.
        delimited: whether the end of the blocks is known to be the end of the file, rather than of
            the connection.
        version: which version of the file this is.
    """

    blocks: Iterable[bytes]
    start: int
    total: int | None
    delimited: bool
    version: FileVersion


class Source(Protocol):
    """Where files come from."""

    def __call__(
        self,
        url: str,
        offset: int,
        partial: FileVersion,
        cached: FileVersion,
        transfer: Transfer,
        /,
    ) -> AbstractContextManager[Response | None]:
        """Request the file.

        Args:
            url: its address.
            offset: bytes of it that are here already.
            partial: the version that they belong to; for another the source starts at byte 0.
            cached: the version of a complete copy; the result is None where that is still current.
            transfer: the source waits no longer than this allows.

        Raises:
            RefusedError: a retry cannot help.
            InterruptedTransferError, OSError: a retry may.
            OverLimitError: the transfer as a whole is over its limit.
        """
