"""References to checkpoints, wherever they lie, as files on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from perdure.checkpoint import artifacts
from perdure.checkpoint.buckets import PACKAGES, Bucket
from perdure.checkpoint.cache import Remote, fetch
from perdure.disk import digest, matches
from perdure.download import (
    DEFAULT_LIMITS,
    Limits,
    OverLimitError,
    RefusedError,
    Source,
    Transfer,
)
from perdure.errors import UserError
from perdure.redaction import redacted as _shown
from perdure.web import Web, check, clean, origin

ACCEPTED = (
    "a local path, https://…, http://…, hf://owner/repo/file[@revision], "
    "wandb://entity/project/name:alias, "
    f"{', '.join(f'{scheme}://…' for scheme in PACKAGES)}, with or without "
    "#sha256=<64 hex digits> at the end"
)
"""For the advice in errors."""

_HUB = "https://huggingface.co"
_TIMEOUT = 20.0  # seconds a server may be silent
_PIN = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Wanted(NamedTuple):
    """A remote file: its address, the SHA-256 it must have if any, where it goes, what it costs."""

    address: str
    pin: str | None
    cache: Path
    transfer: Transfer

    @property
    def scheme(self) -> str:
        return self.address.partition(":")[0]

    def remote(self, url: str, source: Source, advice: str = "") -> Remote:
        return Remote(_shown(self.address), url, source, self.pin, self.transfer, advice)


def resolve(ref: str, cache: Path, *, limits: Limits = DEFAULT_LIMITS) -> Path:
    """The local file that a reference means, fetched into `cache` where it is remote.

    A local path is returned as it is typed, `~` expanded. `limits`: of the whole transfer, with
    its sidecar, retries and redirects.

    Raises:
        UserError: it means nothing, is not there, is not what its pin says, or exceeds the limits.
    """
    address, mark, pin = ref.partition("#sha256=")
    if mark and not _PIN.fullmatch(pin.lower()):
        raise UserError(f"{_shown(address)}: a pin is #sha256= and 64 hex digits, at the end")
    scheme = _SCHEME.match(address)
    if not address:
        raise UserError(f"an empty checkpoint reference: must be {ACCEPTED}")
    if address.lower().startswith("file:"):
        raise UserError(f"{address}: file: is not known, the path alone is; must be {ACCEPTED}")
    if scheme is None:
        return _local(address, pin.lower())
    fetcher = _FETCHERS.get(scheme[1].lower())
    if fetcher is None:
        raise UserError(f"{_shown(address)}: {scheme[1]}:// is not known; must be {ACCEPTED}")
    if "#" in address:
        raise UserError(f"{_shown(address)}: what follows # must be sha256=<64 hex digits>")
    address = scheme[0].lower() + address[scheme.end() :]
    transfer = Transfer(limits)
    return fetcher(Wanted(address, pin.lower() or None, Path(cache).expanduser(), transfer))


def _local(address: str, pin: str) -> Path:
    try:
        path = Path(address).expanduser()
        if not pin and path.is_dir():
            return path
        if not path.is_file():
            what = "a folder, and a pin is of one file" if path.is_dir() else "no such file"
            raise UserError(f"{address}: {what}; must be {ACCEPTED}")
        found = digest(path) if pin else ""
    except (OSError, ValueError, RuntimeError) as error:  # no rights, a NUL byte, no such home
        raise UserError(f"{address}: cannot be read ({error}); must be {ACCEPTED}") from error
    if found != pin:
        raise UserError(f"{address}: its SHA-256 is {found}, not the pinned {pin}")
    return path


def _from_web(wanted: Wanted) -> Path:
    url = clean(wanted.address)
    _check(url, _shown(wanted.address), wanted.transfer)
    return fetch(wanted.remote(url, Web(_TIMEOUT)), wanted.cache)


def _from_hub(wanted: Wanted) -> Path:
    """Hugging Face's hub, or what HF_ENDPOINT names; HF_TOKEN is shown to that origin alone."""
    path, at, revision = wanted.address.removeprefix("hf://").partition("@")
    parts = path.split("/")
    if len(parts) < 3 or {"", ".", ".."} & set(parts) or (at and not revision):
        raise UserError(
            f"{_shown(wanted.address)}: must be hf://owner/repo/path/of/the/file[@revision]"
        )
    base = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    _check(base, "HF_ENDPOINT", wanted.transfer)
    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        raise UserError("HF_TOKEN: is no token (a token is made of letters, digits and _)")
    repository, file = quote("/".join(parts[:2])), quote("/".join(parts[2:]))
    url = clean(f"{base}/{repository}/resolve/{quote(revision or 'main', safe='')}/{file}")
    web = Web(_TIMEOUT, {origin(url): token} if token else {})
    advice = "" if token else "a private or gated repository needs HF_TOKEN"
    return fetch(wanted.remote(url, web, advice), wanted.cache)


def _from_bucket(wanted: Wanted) -> Path:
    if "::" in wanted.address:
        raise UserError(f"{_shown(wanted.address)}: must name one store, without ::")
    bucket = Bucket(PACKAGES[wanted.scheme])
    return fetch(wanted.remote(wanted.address, bucket), wanted.cache)


def _check(url: str, shown: str, transfer: Transfer) -> None:
    try:
        transfer.bounded(partial(check, url))
    except RefusedError as refusal:
        raise UserError(f"{shown}: {refusal}; must be {ACCEPTED}") from refusal
    except OverLimitError as limit:
        raise UserError(f"{shown} could not be fetched: {limit}") from limit


def _from_wandb(wanted: Wanted) -> Path:
    path = artifacts.fetch(wanted.address, wanted.cache, limits=wanted.transfer.limits).path
    if wanted.pin and not matches(path, sha256=wanted.pin):
        raise UserError(
            f"{_shown(wanted.address)}: its SHA-256 is {digest(path)}, not the pinned {wanted.pin}"
        )
    return path


_FETCHERS: Mapping[str, Callable[[Wanted], Path]] = {
    "http": _from_web,
    "https": _from_web,
    "hf": _from_hub,
    **dict.fromkeys(PACKAGES, _from_bucket),
    "wandb": _from_wandb,
}
