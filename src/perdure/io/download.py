"""One file from anywhere into a `.part` beside its place: resumed, limited, tried again.

A transfer has a timeout and a maximum size as a whole: retries, backoff, redirects and mirrors
count together, so that a server that sends a byte now and then holds nobody for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from perdure.errors import UserError
from perdure.io.atomic import publish, write_json
from perdure.io.files import writing

Version = Mapping[str, str]
"""What a server tells of its file; equal `exact` entries promise equal bytes."""

Flaw = Callable[[Path, bool], str | None]
"""What is wrong with a finished part, or None; told also whether the file's end is known."""

_PROGRESS = 1 << 20  # bytes gained by a failed round that make it worth starting to count anew
_GLANCE = 1.0  # seconds between two looks at what has arrived in a thread
_T = TypeVar("_T")


@dataclass(frozen=True)
class Limits:
    """What a transfer may cost as a whole.

    Attributes:
        seconds: from its start to its end, whatever it waits for.
        n_bytes: the most that is taken, by all attempts together.
        group: of the configuration, whose `max_minutes` and `max_gigabytes` these are.
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
"""Those of a checkpoint, where the configuration says nothing else."""


class OverLimitError(Exception):
    """A transfer has reached its limit; the message says which, and how far it got."""


class Transfer:
    """A transfer under way: when it began, and how many bytes it has taken."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.n_bytes = 0
        self._began = time.monotonic()

    def left(self, untaken: int = 0) -> float:
        """Seconds that remain; `untaken`: bytes that have arrived but are not counted yet.

        Raises:
            OverLimitError: none do, or there are too many bytes.
        """
        limits, n_bytes = self.limits, self.n_bytes + untaken
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

    def take(self, n_bytes: int) -> None:
        """Counts bytes that have arrived. Raises OverLimitError."""
        self.n_bytes += n_bytes
        self.left()

    def pause(self, seconds: float) -> None:
        """Waits so long, or until the time is over. Raises OverLimitError."""
        time.sleep(min(seconds, self.left()))
        self.left()

    def timeout(self, silence: float) -> float:
        """Seconds to wait for the next byte, where a server may be silent for `silence` seconds.

        Raises OverLimitError.
        """
        return min(silence, self.left())

    def bounded(self, work: Callable[[], _T], arrived: Callable[[], int] = int) -> _T:
        """What `work` gives, for work that takes no timeout, or cannot be trusted with one.

        At the limit it is left alone in its thread, which does not keep the process from ending.
        `arrived`: bytes that it has got so far and that are not counted yet.
        Raises OverLimitError, and what `work` raises.
        """
        outcome = Future[_T]()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        left = self.left()
        threading.Thread(target=run, daemon=True).start()
        while not wait([outcome], min(left, _GLANCE)).done:
            left = self.left(arrived())
        return outcome.result()


class FetchError(UserError):
    """No mirror gave the file; the message says what each of them answered.

    `why`: the answers alone; `final`: whether asking again later can be no use.
    """

    def __init__(self, message: str, why: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.why = why
        self.final = final


class LimitError(FetchError):
    """The transfer as a whole has reached its limit, so nothing else is worth trying."""


class RefusedError(Exception):
    """A source that will not give the file however often it is asked."""


class BrokenOffError(Exception):
    """A transfer that ended early and may be taken up again."""


@dataclass(frozen=True)
class Answer:
    """What a source sends: the file from byte `start` on.

    `total`: size of the whole file where it is told. `delimited`: whether the end of the blocks is
    known to be the end of the file, rather than of the connection.
    """

    blocks: Iterable[bytes]
    start: int
    total: int | None
    delimited: bool
    version: Version


class Source(Protocol):
    """Where files come from."""

    def __call__(
        self, url: str, have: int, part: Version, held: Version, transfer: Transfer, /
    ) -> AbstractContextManager[Answer | None]:
        """The file from byte `have` on if it is still the version `part`, else from the start.

        None where the file is still the version `held`. Whatever the source waits for, it waits no
        longer than `transfer` allows. Raises RefusedError, BrokenOffError, OverLimitError and
        OSError.
        """


@dataclass
class Download:
    """A file on its way into `part`; beside it lies the version that it is a part of.

    `limit`: the most bytes that the file may have, `limit_of`: whose limit that is, for errors.
    `checksummed`: whether `flaw` would notice a part of two versions.
    """

    name: str
    part: Path
    source: Source
    flaw: Flaw
    transfer: Transfer
    limit: int
    pauses: Sequence[float]  # seconds before each further round
    limit_of: str = "that are accepted"
    checksummed: bool = True
    held: Version = field(default_factory=dict)  # of a copy that makes a transfer needless
    setting: str | None = None
    version: Version = field(default_factory=dict, init=False)
    _delimited: bool = field(default=False, init=False)

    def from_any(self, urls: Sequence[str]) -> bool:
        """Rounds over the mirrors until one gives the file; a mirror that refuses is left out.

        Returns False where the file is the version held. Raises FetchError.
        """
        mirrors, answers = list(dict.fromkeys(urls)), dict[str, str]()
        furthest, pauses = self._size(), iter(self.pauses)
        try:
            while True:
                for url in tuple(mirrors):
                    try:
                        return self._from_mirror(url)
                    except RefusedError as refusal:
                        mirrors.remove(url)
                        answers[url] = str(refusal)
                    except (OSError, BrokenOffError) as error:
                        self.transfer.left()  # a server that was cut short is not to blame
                        answers[url] = str(error) or type(error).__name__
                if self._size() >= furthest + _PROGRESS:
                    furthest, pauses = self._size(), iter(self.pauses)
                pause = next(pauses, None)
                if pause is None or not mirrors:
                    break
                self.transfer.pause(pause)
        except OverLimitError as error:
            raise self._failed(LimitError, str(error), answers) from error
        raise self._failed(FetchError, "", answers, final=not mirrors)

    def _failed(
        self, kind: type[FetchError], limit: str, answers: Mapping[str, str], final: bool = False
    ) -> FetchError:
        if self._size() == 0:
            self.discard()
        said = [f"{_host(url)}: {answer}" for url, answer in answers.items()]
        why = "; ".join([limit, *said] if limit else said)
        message = f"{self.name} could not be fetched ({why or 'no mirror is known'})"
        return kind(message, why, final)

    def publish(self, path: Path) -> None:
        """Gives the finished part its name."""
        publish(self.part, path, self.setting)
        self.discard()

    def discard(self) -> None:
        with writing(self.part.parent, self.setting):
            self._version_file.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)

    def _from_mirror(self, url: str) -> bool:
        while True:
            start = self._transfer(url)
            if start is None:
                self.discard()
                return False
            flaw = self.flaw(self.part, self._delimited)
            if flaw is None:
                return True
            self.discard()
            if start == 0:
                raise RefusedError(flaw)
            # The part may have come from another mirror or be a torn write: once more, whole.

    def _transfer(self, url: str) -> int | None:
        """Gets what is missing of the part; the byte it went on from, None for the version held."""
        known = self._known(url)
        have = self._size() if self.checksummed or "exact" in known else 0
        self.transfer.left()
        with self.source(url, have, known, self.held, self.transfer) as answer:
            if answer is None:
                return None
            self._check(answer, have, known)
            self.version = {**(known if answer.start else {}), **answer.version}
            self._delimited = answer.delimited
            self._receive(answer, url)
        return answer.start

    def _check(self, answer: Answer, have: int, known: Version) -> None:
        if answer.start not in (0, have):
            self.discard()
            raise BrokenOffError("it resumed the transfer at another place than asked")
        if answer.start and any(known.get(key, now) != now for key, now in answer.version.items()):
            self.discard()
            raise BrokenOffError("its file changed during the transfer")
        if answer.total is not None and answer.total > self.limit:
            self.discard()
            raise RefusedError(
                f"it offers {answer.total} bytes, more than the {self.limit} {self.limit_of}"
            )

    def _receive(self, answer: Answer, url: str) -> None:
        size = answer.start
        with writing(self.part.parent, self.setting):
            if size == 0:
                self.discard()
            file = self.part.open("ab")
            if size == 0 and "exact" in answer.version:
                write_json(self._version_file, {**answer.version, "url": _key(url)}, durable=False)
        with file, _Progress(self.name, _host(url), answer.total) as progress:
            for block in answer.blocks:
                size += len(block)
                if size > self.limit:
                    self.discard()
                    raise RefusedError(f"it sends more than the {self.limit} bytes {self.limit_of}")
                with writing(self.part.parent, self.setting):
                    file.write(block)
                self.transfer.take(len(block))
                progress.show(size)
            with writing(self.part.parent, self.setting):
                file.flush()
                os.fsync(file.fileno())
        if answer.total is not None and size != answer.total:
            if size > answer.total:
                self.discard()
            raise BrokenOffError(f"the transfer ended after {size} of {answer.total} bytes")

    def _known(self, url: str) -> Version:
        """The version that the part belongs to, where it came from this address."""
        try:
            known = json.loads(self._version_file.read_text())
            return known if known.pop("url") == _key(url) else {}
        except (OSError, ValueError, KeyError, AttributeError):
            return {}

    @property
    def _version_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.version")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


class _Progress:
    """One plain line a transfer, or a line that is redrawn where standard error is a terminal."""

    def __init__(self, name: str, host: str, total: int | None) -> None:
        self._live = sys.stderr.isatty()
        self._what = f"fetching {name}"
        self._of = "" if total is None else f"{total / 1e6:.1f} MB"
        self._host = host
        self._next = 0.0

    def __enter__(self) -> _Progress:
        if not self._live:
            size = f" ({self._of})" if self._of else ""
            print(f"{self._what}{size} from {self._host}", file=sys.stderr, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            print(file=sys.stderr, flush=True)

    def show(self, size: int) -> None:
        if self._live and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.1
            of = f" of {self._of}" if self._of else ""
            line = f"\r{self._what}: {size / 1e6:.1f} MB{of} from {self._host}"
            print(line, end="", file=sys.stderr, flush=True)


def _key(url: str) -> str:
    """An address may hold a signature, which has no business on the disk."""
    return hashlib.sha256(url.encode()).hexdigest()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
