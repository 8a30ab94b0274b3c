"""Fetching data files over HTTP: resumed, checksum-verified, atomic, safe between processes."""

from __future__ import annotations

import http.client
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from perdure.datasets.files import locked, matches, partial, publish, writing
from perdure.errors import UserError

_SCHEMES = ("http", "https")
_BLOCK = 1 << 16
_PAUSES = (0.5, 2.0)  # seconds before each further round over the mirrors
_PROGRESS = 1 << 20  # bytes gained by a failed round that make it worth starting to count anew
_TRANSIENT_CODES = (408, 425, 429)


class FetchError(UserError):
    """No mirror gave the file; the message says what each of them answered."""


class _RefusedError(Exception):
    """A mirror that will not give the file however often it is asked."""


class _InterruptedError(Exception):
    """A transfer that ended early and may be taken up again."""


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    limit: int = 1 << 30,
    timeout: float = 20.0,
) -> Path:
    """Makes sure that `path` is there and has the checksum (`md5` or `sha256`, one is needed).

    The mirrors are tried in order; a broken transfer is resumed, by a later call too, from
    `<name>.part`. A file that fails its checksum is replaced, so `path` must be ours.
    `limit`: bytes taken at most; `timeout`: seconds a mirror may be silent.
    Raises FetchError where no mirror gives the file, UserError where `path` cannot be written.
    """
    expected = {"md5": md5, "sha256": sha256}
    if (md5 is None) == (sha256 is None):
        raise ValueError("give md5 or sha256, one of them")
    for url in urls:
        if urlsplit(url).scheme not in _SCHEMES:
            raise UserError(f"{url} is no mirror of {path.name}: http:// and https:// are accepted")
    if matches(path, **expected):
        return path
    with locked(path) as alone:
        if matches(path, **expected):  # the process waited for has fetched it
            return path
        part = partial(path, alone)
        try:
            _Download(path.name, part, expected, limit, timeout).from_any(urls)
            publish(part, path)
        finally:
            if not alone:  # nobody would find this part again
                part.unlink(missing_ok=True)
    return path


class _Download:
    """One file on its way into `part`."""

    def __init__(
        self, name: str, part: Path, expected: dict[str, str | None], limit: int, timeout: float
    ) -> None:
        self.name = name
        self.part = part
        self.expected = expected
        self.limit = limit
        self.timeout = timeout

    def from_any(self, urls: Sequence[str]) -> None:
        """Rounds over the mirrors until one gives the file; a mirror that refuses is left out."""
        mirrors, answers = list(dict.fromkeys(urls)), dict[str, str]()
        furthest, pauses = self._size(), iter(_PAUSES)
        while True:
            for url in tuple(mirrors):
                try:
                    return self._from_mirror(url)
                except _RefusedError as refusal:
                    mirrors.remove(url)
                    answers[url] = str(refusal)
                except (OSError, http.client.HTTPException, _InterruptedError) as error:
                    answers[url] = _reason(error)
            if self._size() >= furthest + _PROGRESS:
                furthest, pauses = self._size(), iter(_PAUSES)
            pause = next(pauses, None)
            if pause is None or not mirrors:
                break
            time.sleep(pause)
        said = "; ".join(f"{_host(url)}: {answer}" for url, answer in answers.items())
        raise FetchError(f"{self.name} could not be fetched ({said or 'no mirror is known'})")

    def _from_mirror(self, url: str) -> None:
        resumed = self._transfer(url)
        if not self._sound() and resumed:
            # The part may have come from another mirror or be a torn write: once more, whole.
            self._restart()
            self._transfer(url)
        if not self._sound():
            self._restart()
            raise _RefusedError("what it gives has not the published checksum")

    def _transfer(self, url: str) -> bool:
        """Gets what is missing of the part; False where that was everything."""
        have = self._size()
        headers = {"User-Agent": "perdure", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            response = _opener().open(Request(url, headers=headers), timeout=self.timeout)
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:  # nothing is missing
                return True
            if error.code < 500 and error.code not in _TRANSIENT_CODES:
                raise _RefusedError(f"HTTP {error.code} {error.reason}") from error
            raise
        with response:
            start, total = self._extent(response, have)
            with writing(self.part.parent):
                file = self.part.open("ab" if start else "wb")
            with file:
                self._receive(response, file, start, total, _host(url))
        return start > 0

    def _extent(self, response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
        """The first byte that the answer holds, and the size of the whole file where it is told."""
        start, length = 0, response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        if response.status == 206:
            told = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "")
            )
            if told is None or int(told[1]) != have:
                self._restart()
                raise _InterruptedError("it resumed the transfer at another place than asked")
            start, total = have, None if told[3] == "*" else int(told[3])
        if total is not None and total > self.limit:
            raise _RefusedError(f"it offers {total} bytes, more than the {self.limit} expected")
        return start, total

    def _receive(
        self,
        response: http.client.HTTPResponse,
        file: IO[bytes],
        start: int,
        total: int | None,
        host: str,
    ) -> None:
        size = start
        with _Progress(self.name, host, total) as progress:
            for block in _blocks(response):
                size += len(block)
                if size > self.limit:
                    self._restart()
                    raise _RefusedError(f"it sends more than the {self.limit} bytes expected")
                with writing(self.part.parent):
                    file.write(block)
                progress.show(size)
        with writing(self.part.parent):
            file.flush()
            os.fsync(file.fileno())
        if total is not None and size != total:
            raise _InterruptedError(f"the transfer ended after {size} of {total} bytes")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _sound(self) -> bool:
        return matches(self.part, **self.expected)

    def _restart(self) -> None:
        with writing(self.part.parent):
            self.part.unlink(missing_ok=True)


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


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        if urlsplit(newurl).scheme not in _SCHEMES:
            raise _RefusedError(f"it redirects to {newurl}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """HTTP and HTTPS only: no handler for file:, ftp: or data: is there to be reached."""
    opener = OpenerDirector()
    handlers = (ProxyHandler, HTTPHandler, HTTPSHandler, HTTPDefaultErrorHandler)
    for handler in (*handlers, _Redirects, HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while block := response.read(_BLOCK):
        yield block


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
