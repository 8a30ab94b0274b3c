"""Remote checkpoints kept on this machine, asked for again only as far as needed.

Beside `<file>` in the cache lie `<file>.json`, its sidecar, where it is a checkpoint of ours, and
`<file>.version`: its SHA-256 and what the server told of it. The record is written last; a file
without it is not known to be all there.
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
from perdure.io.download import Download, FetchError, Flaw, LimitError, Source, Transfer, Version
from perdure.io.files import digest, matches, read_json, writing
from perdure.io.locking import locked, partial

logger = logging.getLogger("perdure")

_SETTING = "PERDURE_CACHE"  # what names another cache, for the advice in errors
_PAUSES = (0.5, 2.0, 8.0)  # seconds before each further attempt
_NOT_ALLOWED = re.compile(r"HTTP 40[13]\b")


@dataclass(frozen=True)
class Remote:
    """A file to fetch.

    `shown`: its address for messages; `pin`: the SHA-256 it must have; `transfer`: to which all
    that is asked for counts; `advice`: what to try where the server lets only some in.
    """

    shown: str
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


def fetch(remote: Remote, cache: Path) -> Path:
    """The file in `cache`: named by its content where that is pinned, else by its address.

    A pinned file that is there is not asked for. Another is, and what is there stays where the
    server says that it has not changed, or (with a warning) cannot be reached.

    Raises:
        UserError: it cannot be had, is too large, or is not what its pin or its sidecar says.
    """
    if remote.pin:
        name = remote.pin + Path(remote.name).suffix[:16]
    else:
        name = f"{hashlib.sha256(remote.url.encode()).hexdigest()[:16]}-{remote.name}"
    return _Fetch(remote, cache / name).run()


class _Fetch:
    """One call of `fetch`, whose file goes to `path`."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote = remote
        self.path = path
        self.record = path.with_name(f"{path.name}.version")
        self.sha256 = ""
        self.sidecar: Mapping[str, Any] | None = None
        self.certain = False  # whether it is known if there is a sidecar

    def run(self) -> Path:
        if not self._settled():
            with locked(self.path, _SETTING) as alone:
                if not self._settled():  # the process waited for has fetched it
                    self._update(alone)
        return self.path

    def _settled(self) -> bool:
        pin = self.remote.pin
        if pin is None or not self.record.exists() or not matches(self.path, sha256=pin):
            return False
        return self._kept_sidecar_fits(pin) or not sidecars.path_of(self.path).exists()

    def _update(self, alone: bool) -> None:
        remote = self.remote
        held = {} if remote.pin else self._held()
        limits = remote.transfer.limits
        main = self._download(self.path, alone, remote.name, limits.n_bytes, self._flaw)
        main.checksummed, main.held = remote.pin is not None, held
        main.limit_of = f"that {limits.size} allows"
        name = f"the sidecar of {remote.name}"
        self.beside = self._download(
            sidecars.path_of(self.path), alone, name, sidecars.LIMIT, lambda *_: None
        )
        try:
            self._bring(main, held)
        except FetchError as error:
            if error.final or not held:
                raise UserError(self._words(error)) from error
            logger.warning(
                "%s could not be checked for changes (%s): the copy fetched before is used",
                remote.shown,
                error.why,
            )
        finally:
            self.beside.discard()
            if not alone:
                main.discard()

    def _download(self, path: Path, alone: bool, name: str, limit: int, flaw: Flaw) -> Download:
        return Download(
            name,
            partial(path, alone),
            self.remote.source,
            flaw,
            self.remote.transfer,
            limit=limit,
            pauses=_PAUSES,
            checksummed=False,
            setting=_SETTING,
        )

    def _bring(self, main: Download, held: Version) -> None:
        pin = self.remote.pin
        if pin and matches(self.path, sha256=pin):  # all that lacks is to know of a sidecar
            self.sha256 = pin
            self._ask_for_sidecar()
            self._keep_sidecar_and_record({})
        elif main.from_any([self.remote.url]):
            if pin:
                self._ask_for_sidecar()
            with writing(self.path.parent, _SETTING):
                self.record.unlink(missing_ok=True)
            main.publish(self.path)
            self._keep_sidecar_and_record(main.version)
        elif not self._kept_sidecar_fits(held["sha256"]):
            self.sha256 = held["sha256"]
            self._ask_for_sidecar()
            self._keep_sidecar_and_record(held)

    def _flaw(self, part: Path, delimited: bool) -> str | None:
        """What is wrong with a finished transfer: by the pin, else by the sidecar."""
        self.sha256 = digest(part)
        if self.remote.pin:
            sound = self.sha256 == self.remote.pin
            return None if sound else f"its SHA-256 is {self.sha256}, not the pinned one"
        self._ask_for_sidecar()
        if self.sidecar is not None:
            sound = self.sha256 == self.sidecar["sha256"]
            return None if sound else f"its SHA-256 is {self.sha256}, not the one in its sidecar"
        if not delimited:
            return "it does not tell where the file ends; #sha256=<64 hex digits> would"
        return None

    def _ask_for_sidecar(self) -> None:
        self.sidecar, self.certain = None, True
        try:
            self.beside.from_any([self.remote.sidecar_url])
            self.sidecar = _ours(self.beside.part)
        except LimitError:
            raise
        except FetchError as error:
            self.certain = error.final
            if not error.final:
                logger.warning(
                    "the sidecar of %s could not be fetched (%s)", self.remote.shown, error.why
                )

    def _keep_sidecar_and_record(self, version: Version) -> None:
        if self.sidecar is not None and self.sidecar["sha256"] == self.sha256:
            self.beside.publish(sidecars.path_of(self.path))
        else:
            with writing(self.path.parent, _SETTING):
                sidecars.path_of(self.path).unlink(missing_ok=True)
            if self.sidecar is not None:
                logger.warning("the sidecar of %s is of another file", self.remote.shown)
        if self.certain or not self.remote.pin:
            with writing(self.record.parent, _SETTING):
                write_json(self.record, {**version, "sha256": self.sha256})

    def _kept_sidecar_fits(self, sha256: str) -> bool:
        about = _ours(sidecars.path_of(self.path))
        return about is not None and about["sha256"] == sha256

    def _held(self) -> Version:
        """The record of a sound copy in the cache, or nothing."""
        try:
            held = read_json(self.record)
            sound = held["sha256"] == digest(self.path)
            return {key: str(told) for key, told in held.items()} if sound else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _words(self, error: FetchError) -> str:
        said = f"{self.remote.shown} could not be fetched: {error.why}"
        advice = self.remote.advice if _NOT_ALLOWED.search(error.why) else ""
        return f"{said}; {advice}" if advice else said


def _ours(path: Path) -> Mapping[str, Any] | None:
    """A sidecar of this project; whatever else a server has under that name is not."""
    try:
        return sidecars.read_file(path)
    except (OSError, ValueError):
        return None
