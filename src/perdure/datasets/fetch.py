"""Download data files over HTTP: resumed, checksum-verified, atomic, safe between processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from perdure.datasets.files import ROOT
from perdure.errors import UserError
from perdure.io.download import Download, FetchError
from perdure.io.files import matches
from perdure.io.http import SCHEMES, HttpSource
from perdure.io.locking import locked, part_path
from perdure.io.transfer import Limits, Transfer

__all__ = ["FetchError", "fetch", "time_limit"]

_PAUSES = (0.5, 2.0)  # seconds before each further round over the mirrors
_SECONDS = 360 * 60.0  # for a download outside of `time_limit`
# A context variable, since users write sources: `load(root)` of each cannot pass a limit on.
_TRANSFER: ContextVar[Transfer | None] = ContextVar("transfer", default=None)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Limit the time of all downloads in this block together, for example of a data set."""
    token = _TRANSFER.set(_transfer(minutes * 60))
    try:
        yield
    finally:
        _TRANSFER.reset(token)


def current_transfer() -> Transfer:
    """The transfer to which downloads count here: that of `time_limit`, else a new one."""
    return _TRANSFER.get() or _transfer(_SECONDS)


def _transfer(seconds: float) -> Transfer:
    # A source knows how large each of its files may be: there is no limit of their sum.
    return Transfer(Limits(seconds, sys.maxsize, "data"))


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    limit: int = 1 << 30,
    timeout: float = 20.0,
) -> Path:
    """Download `path` unless it is there with the checksum (`md5` or `sha256`, one is needed).

    The mirrors are tried in order; a broken transfer is resumed, by a later call too, from
    `<name>.part`. A file that fails its checksum is replaced, so `path` must be one of our own.
    `limit`: bytes of the file at most; `timeout`: seconds a mirror may be silent.
    The time limit for all together is that of `time_limit`.
    Raises FetchError where no mirror has the file, UserError where `path` cannot be written.
    """

    def validation_error(part: Path, _: bool) -> str | None:
        valid = matches(part, md5=md5, sha256=sha256)
        return None if valid else "what it gives has not the published checksum"

    transfer = current_transfer()
    if (md5 is None) == (sha256 is None):
        raise ValueError("give md5 or sha256, one of them")
    for url in urls:
        if urlsplit(url).scheme not in SCHEMES:
            raise UserError(f"{url} is no mirror of {path.name}: http:// and https:// are accepted")
    if matches(path, md5=md5, sha256=sha256):
        return path
    with locked(path, ROOT, transfer) as has_lock:
        if matches(path, md5=md5, sha256=sha256):  # the process waited for has fetched it
            return path
        part = part_path(path, has_lock)
        download = Download(
            path.name,
            part,
            HttpSource(timeout),
            validation_error,
            transfer,
            limit=limit,
            pauses=_PAUSES,
            setting=ROOT,
        )
        try:
            download.fetch(urls)
            download.publish(path)
        finally:
            if not has_lock:  # no later call would find this part again
                download.discard()
    return path
