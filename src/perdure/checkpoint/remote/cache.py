"""Cache of remote checkpoints on this machine; the server is contacted only as far as needed.

Beside `<file>` in the cache lie its sidecar, where it is a checkpoint of ours, and the record
`<file>.version`: its SHA-256 and the server's description of it (ETag, date). The record is written
last; a file without it may be incomplete.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from perdure.checkpoint.core import sidecars
from perdure.errors import UserError
from perdure.io.atomic import write_json
from perdure.io.download import Download, FetchError, LimitError, Validator
from perdure.io.files import digest, matches, read_json, writing
from perdure.io.locking import locked, part_path
from perdure.io.transfer import FileVersion, Source, Transfer

logger = logging.getLogger("perdure")

_SETTING = "PERDURE_CACHE"  # what names another cache, for the advice in errors
_PAUSES = (0.5, 2.0, 8.0)  # seconds before each further attempt
_NOT_ALLOWED = re.compile(r"HTTP 40[13]\b")


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch.

    Attributes:
        display: its address for messages, redacted.
        url: its address.
        source: where it comes from.
        pin: the SHA-256 it must have, in hex, if any.
        transfer: which all requests count to.
        advice: what to try where the server needs credentials.
    """

    display: str
    url: str
    source: Source
    pin: str | None
    transfer: Transfer
    advice: str = ""

    @property
    def name(self) -> str:
        name = unquote(urlsplit(self.url).path).rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9._-]", "_", name)[-80:] or "checkpoint"

    @property
    def sidecar_url(self) -> str:
        """Where its sidecar would be."""
        return sidecars.url_of(self.url)


def fetch(remote: RemoteFile, cache: Path) -> Path:
    """The file in `cache`: named by its content where that is pinned, else by its address.

    For a pinned file that is there, no request is made. For another one is, and the cached copy
    stays where the server answers that it is unchanged, or (with a warning) cannot be reached.

    Raises:
        UserError: it cannot be fetched, is too large, or does not match its pin or its sidecar.
    """
    if remote.pin:
        name = remote.pin + Path(remote.name).suffix[:16]
    else:
        name = f"{hashlib.sha256(remote.url.encode()).hexdigest()[:16]}-{remote.name}"
    return _Fetch(remote, cache / name).run()


class _Fetch:
    """One call of `fetch`, whose file goes to `path`."""

    def __init__(self, remote: RemoteFile, path: Path) -> None:
        self.remote = remote
        self.path = path
        self.record = path.with_name(f"{path.name}.version")
        self.sha256 = ""
        self.sidecar: Mapping[str, Any] | None = None
        self.sidecar_settled = False  # whether the server has given the sidecar or has none

    def run(self) -> Path:
        if not self._is_current():
            with locked(self.path, _SETTING, self.remote.transfer) as has_lock:
                if not self._is_current():  # the process waited for has fetched it
                    self._update(has_lock)
        return self.path

    def _is_current(self) -> bool:
        pin = self.remote.pin
        if pin is None or not self.record.exists() or not matches(self.path, sha256=pin):
            return False
        return self._cached_sidecar_fits(pin) or not sidecars.path_of(self.path).exists()

    def _update(self, has_lock: bool) -> None:
        remote = self.remote
        cached = {} if remote.pin else self._cached_version()
        limits = remote.transfer.limits
        main = self._download(self.path, has_lock, remote.name, limits.n_bytes, self._validate)
        main.checksummed, main.cached = remote.pin is not None, cached
        main.limit_of = f"that {limits.size} allows"
        name = f"the sidecar of {remote.name}"
        self.sidecar_download = self._download(
            sidecars.path_of(self.path), has_lock, name, sidecars.LIMIT, lambda *_: None
        )
        try:
            self._fetch(main, cached)
        except FetchError as error:
            if error.final or not cached:
                raise UserError(self._message(error)) from error
            logger.warning(
                "%s could not be checked for changes (%s): the copy fetched before is used",
                remote.display,
                error.reason,
            )
        finally:
            self.sidecar_download.discard()
            if not has_lock:
                main.discard()

    def _download(
        self, path: Path, has_lock: bool, name: str, limit: int, validate: Validator
    ) -> Download:
        return Download(
            name,
            part_path(path, has_lock),
            self.remote.source,
            validate,
            self.remote.transfer,
            limit=limit,
            pauses=_PAUSES,
            checksummed=False,
            setting=_SETTING,
        )

    def _fetch(self, main: Download, cached: FileVersion) -> None:
        pin = self.remote.pin
        if pin and matches(self.path, sha256=pin):  # only its sidecar is missing, if it has one
            self.sha256 = pin
            self._fetch_sidecar()
            self._keep_sidecar_and_record({})
        elif main.fetch([self.remote.url]):
            if pin:
                self._fetch_sidecar()
            with writing(self.path.parent, _SETTING):
                self.record.unlink(missing_ok=True)
            main.publish(self.path)
            self._keep_sidecar_and_record(main.version)
        elif not self._cached_sidecar_fits(cached["sha256"]):
            self.sha256 = cached["sha256"]
            self._fetch_sidecar()
            self._keep_sidecar_and_record(cached)

    def _validate(self, part: Path, delimited: bool) -> str | None:
        """Why a finished transfer is invalid, by its pin, else by its sidecar; None if valid."""
        self.sha256 = digest(part)
        if self.remote.pin:
            valid = self.sha256 == self.remote.pin
            return None if valid else f"its SHA-256 is {self.sha256}, not the pinned one"
        self._fetch_sidecar()
        if self.sidecar is not None:
            valid = self.sha256 == self.sidecar["sha256"]
            return None if valid else f"its SHA-256 is {self.sha256}, not the one in its sidecar"
        if not delimited:
            return "the server does not mark where the file ends; #sha256=<64 hex digits> would"
        return None

    def _fetch_sidecar(self) -> None:
        self.sidecar, self.sidecar_settled = None, True
        try:
            self.sidecar_download.fetch([self.remote.sidecar_url])
            self.sidecar = _read_sidecar(self.sidecar_download.part)
        except LimitError:
            raise
        except FetchError as error:
            self.sidecar_settled = error.final
            if not error.final:
                logger.warning(
                    "the sidecar of %s could not be fetched (%s)", self.remote.display, error.reason
                )

    def _keep_sidecar_and_record(self, version: FileVersion) -> None:
        if self.sidecar is not None and self.sidecar["sha256"] == self.sha256:
            self.sidecar_download.publish(sidecars.path_of(self.path))
        else:
            with writing(self.path.parent, _SETTING):
                sidecars.path_of(self.path).unlink(missing_ok=True)
            if self.sidecar is not None:
                logger.warning("the sidecar of %s is of another file", self.remote.display)
        if self.sidecar_settled or not self.remote.pin:
            with writing(self.record.parent, _SETTING):
                write_json(self.record, {**version, "sha256": self.sha256})

    def _cached_sidecar_fits(self, sha256: str) -> bool:
        metadata = _read_sidecar(sidecars.path_of(self.path))
        return metadata is not None and metadata["sha256"] == sha256

    def _cached_version(self) -> FileVersion:
        """The record of a valid copy in the cache, or nothing."""
        try:
            record = read_json(self.record)
            valid = record["sha256"] == digest(self.path)
            return {key: str(value) for key, value in record.items()} if valid else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _message(self, error: FetchError) -> str:
        message = f"{self.remote.display} could not be fetched: {error.reason}"
        advice = self.remote.advice if _NOT_ALLOWED.search(error.reason) else ""
        return f"{message}; {advice}" if advice else message


def _read_sidecar(path: Path) -> Mapping[str, Any] | None:
    """A valid sidecar; a server may have anything else under that name."""
    try:
        return sidecars.read_file(path)
    except (OSError, ValueError):
        return None
