"""Download of one file: resume of a partial file, retry and backoff, mirrors, timeout, size limit.

The file is built up in a `.part` beside its place. A transfer has a timeout and a maximum size as a
whole: retries, backoff, redirects and mirrors count together, so that a server that sends a byte
now and then cannot keep a program waiting for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from perdure.errors import UserError
from perdure.io.atomic import publish, write_json
from perdure.io.files import writing
from perdure.io.transfer import (
    FileVersion,
    InterruptedTransferError,
    OverLimitError,
    RefusedError,
    Response,
    Source,
    Transfer,
)

Validator = Callable[[Path, bool], str | None]
"""(finished part, whether the server marked the end of the file) → why it is invalid, or None."""

_PROGRESS = (
    1 << 20
)  # bytes gained by a failed round after which the pauses start from the first again


class FetchError(UserError):
    """No mirror gave the file; the message holds the error of each.

    Attributes:
        reason: the errors alone.
        final: whether a later retry cannot help.
    """

    def __init__(self, message: str, reason: str = "", final: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.final = final


class LimitError(FetchError):
    """The transfer as a whole has reached its limit, so nothing else is worth trying."""


@dataclass
class Download:
    """One file that is downloaded to `part`; `<part>.version` holds the version it belongs to.

    Attributes:
        name: of the file, for messages.
        part: the partial file, which a later call resumes.
        source: where it comes from.
        validate: why the finished file is invalid, or None.
        transfer: which all attempts count to.
        limit: the most bytes that the file may have.
        pauses: seconds before each further round over the mirrors.
        limit_of: the origin of `limit`, for errors.
        checksummed: whether `validate` would notice a file made of two versions.
        cached: the version of a complete copy, which makes a transfer needless.
        setting: the key of the configuration that names the folder, for errors.
        version: of the file that was received.
    """

    name: str
    part: Path
    source: Source
    validate: Validator
    transfer: Transfer
    limit: int
    pauses: Sequence[float]
    limit_of: str = "that are accepted"
    checksummed: bool = True
    cached: FileVersion = field(default_factory=dict)
    setting: str | None = None
    version: FileVersion = field(default_factory=dict, init=False)
    _delimited: bool = field(default=False, init=False)

    def fetch(self, urls: Sequence[str]) -> bool:
        """Try the mirrors in rounds until one gives the file; one that refuses is left out.

        Returns:
            Whether the file was received; False where the cached version is still current.

        Raises:
            FetchError: no mirror gave it.
            LimitError: the transfer as a whole is over its limit.
        """
        mirrors, errors = list(dict.fromkeys(urls)), dict[str, str]()
        furthest, pauses = self._size(), iter(self.pauses)
        try:
            while True:
                for url in tuple(mirrors):
                    try:
                        return self._from_mirror(url)
                    except RefusedError as refusal:
                        mirrors.remove(url)
                        errors[url] = str(refusal)
                    except (OSError, InterruptedTransferError) as error:
                        self.transfer.remaining()  # a server that was cut short is not to blame
                        errors[url] = str(error) or type(error).__name__
                if self._size() >= furthest + _PROGRESS:
                    furthest, pauses = self._size(), iter(self.pauses)
                pause = next(pauses, None)
                if pause is None or not mirrors:
                    break
                self.transfer.pause(pause)
        except OverLimitError as error:
            raise self._failed(LimitError, str(error), errors) from error
        raise self._failed(FetchError, "", errors, final=not mirrors)

    def _failed(
        self, kind: type[FetchError], limit: str, errors: Mapping[str, str], final: bool = False
    ) -> FetchError:
        if self._size() == 0:
            self.discard()
        of_hosts = [f"{_host(url)}: {error}" for url, error in errors.items()]
        reason = "; ".join([limit, *of_hosts] if limit else of_hosts)
        message = f"{self.name} could not be fetched ({reason or 'no mirror is known'})"
        return kind(message, reason, final)

    def publish(self, path: Path) -> None:
        """Give the finished file its name, atomically. Raises UserError."""
        publish(self.part, path, self.setting)
        self.discard()

    def discard(self) -> None:
        """Remove the partial file and its version. Raises UserError."""
        with writing(self.part.parent, self.setting):
            self._version_file.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)

    def _from_mirror(self, url: str) -> bool:
        while True:
            start = self._transfer(url)
            if start is None:
                self.discard()
                return False
            invalid = self.validate(self.part, self._delimited)
            if invalid is None:
                return True
            self.discard()
            if start == 0:
                raise RefusedError(invalid)
            # The part may have come from another mirror or be a torn write: once more, from byte 0.

    def _transfer(self, url: str) -> int | None:
        """Receive the rest of the part; returns where it resumed, None for the cached version."""
        known = self._partial_version(url)
        offset = self._size() if self.checksummed or "exact" in known else 0
        self.transfer.remaining()
        with self.source(url, offset, known, self.cached, self.transfer) as response:
            if response is None:
                return None
            self._check(response, offset, known)
            self.version = {**(known if response.start else {}), **response.version}
            self._delimited = response.delimited
            self._receive(response, url)
        return response.start

    def _check(self, response: Response, offset: int, known: FileVersion) -> None:
        if response.start not in (0, offset):
            self.discard()
            raise InterruptedTransferError("it resumed the transfer at another byte than requested")
        if response.start and any(
            known.get(key, now) != now for key, now in response.version.items()
        ):
            self.discard()
            raise InterruptedTransferError("its file changed during the transfer")
        if response.total is not None and response.total > self.limit:
            self.discard()
            raise RefusedError(
                f"it offers {response.total} bytes, more than the {self.limit} {self.limit_of}"
            )

    def _receive(self, response: Response, url: str) -> None:
        size = response.start
        with writing(self.part.parent, self.setting):
            if size == 0:
                self.discard()
            file = self.part.open("ab")
            if size == 0 and "exact" in response.version:
                write_json(
                    self._version_file, {**response.version, "url": _key(url)}, durable=False
                )
        with file, _Progress(self.name, _host(url), response.total) as progress:
            for block in response.blocks:
                size += len(block)
                if size > self.limit:
                    self.discard()
                    raise RefusedError(f"it sends more than the {self.limit} bytes {self.limit_of}")
                with writing(self.part.parent, self.setting):
                    file.write(block)
                self.transfer.count(len(block))
                progress.show(size)
            with writing(self.part.parent, self.setting):
                file.flush()
                os.fsync(file.fileno())
        if response.total is not None and size != response.total:
            if size > response.total:
                self.discard()
            raise InterruptedTransferError(
                f"the transfer ended after {size} of {response.total} bytes"
            )

    def _partial_version(self, url: str) -> FileVersion:
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
