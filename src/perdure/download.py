"""One file from anywhere into a `.part` beside its place: resumed, limited, tried again."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from perdure.disk import publish, writing
from perdure.errors import UserError

Version = Mapping[str, str]
"""What a server tells of its file; equal `exact` entries promise equal bytes."""

Flaw = Callable[[Path, bool], str | None]
"""What is wrong with a finished part, or None; told also whether the file's end is known."""

_PROGRESS = 1 << 20  # bytes gained by a failed round that make it worth starting to count anew


class FetchError(UserError):
    """No mirror gave the file; the message says what each of them answered.

    `why`: the answers alone; `final`: whether asking again later can be no use.
    """

    def __init__(self, message: str, why: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.why = why
        self.final = final


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
        self, url: str, have: int, part: Version, held: Version, /
    ) -> AbstractContextManager[Answer | None]:
        """The file from byte `have` on if it is still the version `part`, else from the start.

        None where the file is still the version `held`. Raises RefusedError, BrokenOffError and
        OSError.
        """


@dataclass
class Download:
    """A file on its way into `part`; beside it lies the version that it is a part of.

    `checksummed`: whether `flaw` would notice a part of two versions.
    """

    name: str
    part: Path
    source: Source
    flaw: Flaw
    limit: int
    pauses: Sequence[float]  # seconds before each further round
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
        while True:
            for url in tuple(mirrors):
                try:
                    return self._from_mirror(url)
                except RefusedError as refusal:
                    mirrors.remove(url)
                    answers[url] = str(refusal)
                except (OSError, BrokenOffError) as error:
                    answers[url] = str(error) or type(error).__name__
            if self._size() >= furthest + _PROGRESS:
                furthest, pauses = self._size(), iter(self.pauses)
            pause = next(pauses, None)
            if pause is None or not mirrors:
                break
            time.sleep(pause)
        if self._size() == 0:
            self.discard()
        said = "; ".join(f"{_host(url)}: {answer}" for url, answer in answers.items())
        message = f"{self.name} could not be fetched ({said or 'no mirror is known'})"
        raise FetchError(message, said, final=not mirrors)

    def publish(self, path: Path) -> None:
        """Gives the finished part its name."""
        publish(self.part, path, self.setting)
        self.discard()

    def discard(self) -> None:
        with writing(self.part.parent, self.setting):
            self._beside.unlink(missing_ok=True)
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
        with self.source(url, have, known, self.held) as answer:
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
                f"it offers {answer.total} bytes, more than the {self.limit} that are accepted"
            )

    def _receive(self, answer: Answer, url: str) -> None:
        size = answer.start
        with writing(self.part.parent, self.setting):
            if size == 0:
                self.discard()
            file = self.part.open("ab")
            if size == 0 and "exact" in answer.version:
                self._beside.write_text(json.dumps({**answer.version, "url": _key(url)}))
        with file, _Progress(self.name, _host(url), answer.total) as progress:
            for block in answer.blocks:
                size += len(block)
                if size > self.limit:
                    self.discard()
                    raise RefusedError(
                        f"it sends more than the {self.limit} bytes that are accepted"
                    )
                with writing(self.part.parent, self.setting):
                    file.write(block)
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
            known = json.loads(self._beside.read_text())
            return known if known.pop("url") == _key(url) else {}
        except (OSError, ValueError, KeyError, AttributeError):
            return {}

    @property
    def _beside(self) -> Path:
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
