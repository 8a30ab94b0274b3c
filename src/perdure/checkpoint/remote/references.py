"""References to checkpoints, wherever they lie, as files on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from perdure.checkpoint.remote.cache import Remote, fetch
from perdure.errors import UserError
from perdure.io.download import (
    DEFAULT_LIMITS,
    Limits,
    OverLimitError,
    RefusedError,
    Source,
    Transfer,
)
from perdure.io.files import digest, matches
from perdure.io.http import Web, check, clean, origin
from perdure.io.object_store import PACKAGES, Bucket
from perdure.io.redaction import redacted as _shown

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


class Scheme(NamedTuple):
    """What is known of `scheme://…`: how such a reference is written, and how it is fetched."""

    form: str
    fetch: Callable[[Wanted], Path]


def accepted(schemes: Mapping[str, Scheme]) -> str:
    """The references that there are, for the advice in errors."""
    forms = ", ".join(scheme.form for scheme in schemes.values())
    return f"a local path, {forms}, with or without #sha256=<64 hex digits> at the end"


def resolve(
    ref: str,
    cache: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    schemes: Mapping[str, Scheme] | None = None,
) -> Path:
    """The local file that a reference means, fetched into `cache` where it is remote.

    A local path is returned as it is typed, `~` expanded.

    Args:
        ref: the reference.
        cache: the folder in which remote files are kept.
        limits: of the whole transfer, with its sidecar, retries and redirects.
        schemes: the remote ones that are known; by default `SCHEMES`.

    Raises:
        UserError: it means nothing, is not there, is not what its pin says, or exceeds the limits.
    """
    schemes = SCHEMES if schemes is None else schemes
    must_be = f"must be {accepted(schemes)}"
    address, mark, pin = ref.partition("#sha256=")
    if mark and not _PIN.fullmatch(pin.lower()):
        raise UserError(f"{_shown(address)}: a pin is #sha256= and 64 hex digits, at the end")
    match = _SCHEME.match(address)
    if not address:
        raise UserError(f"an empty checkpoint reference: {must_be}")
    if address.lower().startswith("file:"):
        raise UserError(f"{address}: file: is not known, the path alone is; {must_be}")
    if match is None:
        return _local(address, pin.lower(), must_be)
    scheme = schemes.get(match[1].lower())
    if scheme is None:
        raise UserError(f"{_shown(address)}: {match[1]}:// is not known; {must_be}")
    if "#" in address:
        raise UserError(f"{_shown(address)}: what follows # must be sha256=<64 hex digits>")
    address = match[0].lower() + address[match.end() :]
    transfer = Transfer(limits)
    return scheme.fetch(Wanted(address, pin.lower() or None, Path(cache).expanduser(), transfer))


def _local(address: str, pin: str, must_be: str) -> Path:
    try:
        path = Path(address).expanduser()
        if not pin and path.is_dir():
            return path
        if not path.is_file():
            what = "a folder, and a pin is of one file" if path.is_dir() else "no such file"
            raise UserError(f"{address}: {what}; {must_be}")
        found = digest(path) if pin else ""
    except (OSError, ValueError, RuntimeError) as error:  # no rights, a NUL byte, no such home
        raise UserError(f"{address}: cannot be read ({error}); {must_be}") from error
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
        raise UserError(f"{shown}: {refusal}; must be {accepted(SCHEMES)}") from refusal
    except OverLimitError as limit:
        raise UserError(f"{shown} could not be fetched: {limit}") from limit


def require_pin(path: Path, wanted: Wanted) -> Path:
    """`path`, where it has the SHA-256 that the reference asks for.

    Raises:
        UserError: it has another.
    """
    if wanted.pin and not matches(path, sha256=wanted.pin):
        raise UserError(
            f"{_shown(wanted.address)}: its SHA-256 is {digest(path)}, not the pinned {wanted.pin}"
        )
    return path


SCHEMES: Mapping[str, Scheme] = {
    "https": Scheme("https://…", _from_web),
    "http": Scheme("http://…", _from_web),
    "hf": Scheme("hf://owner/repo/file[@revision]", _from_hub),
    **{name: Scheme(f"{name}://…", _from_bucket) for name in PACKAGES},
}
"""The schemes that need nothing but this package; whoever resolves may know others."""
