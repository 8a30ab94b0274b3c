"""Fetching data files over HTTP: resumed, checksum-verified, atomic, safe between processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from perdure.datasets.files import ROOT
from perdure.disk import locked, matches, partial
from perdure.download import Download, FetchError
from perdure.errors import UserError
from perdure.web import SCHEMES, Web

__all__ = ["FetchError", "fetch"]

_PAUSES = (0.5, 2.0)  # seconds before each further round over the mirrors


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

    def flaw(part: Path, _: bool) -> str | None:
        sound = matches(part, md5=md5, sha256=sha256)
        return None if sound else "what it gives has not the published checksum"

    if (md5 is None) == (sha256 is None):
        raise ValueError("give md5 or sha256, one of them")
    for url in urls:
        if urlsplit(url).scheme not in SCHEMES:
            raise UserError(f"{url} is no mirror of {path.name}: http:// and https:// are accepted")
    if matches(path, md5=md5, sha256=sha256):
        return path
    with locked(path, ROOT) as alone:
        if matches(path, md5=md5, sha256=sha256):  # the process waited for has fetched it
            return path
        part = partial(path, alone)
        download = Download(
            path.name, part, Web(timeout), flaw, limit=limit, pauses=_PAUSES, setting=ROOT
        )
        try:
            download.from_any(urls)
            download.publish(path)
        finally:
            if not alone:  # nobody would find this part again
                download.discard()
    return path
