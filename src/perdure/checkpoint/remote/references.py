"""Checkpoint references (`checkpoint.load=…`): local paths, HTTP, Hugging Face hub, object stores.

Each is resolved to a file on this machine; remote ones are fetched into a cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from perdure.checkpoint.remote.cache import RemoteFile, fetch
from perdure.errors import UserError
from perdure.io.files import digest, matches
from perdure.io.http import HttpSource, check, clean, origin
from perdure.io.object_store import PACKAGES, ObjectStoreSource
from perdure.io.redaction import redacted as _shown
from perdure.io.transfer import (
    DEFAULT_LIMITS,
    Limits,
    OverLimitError,
    RefusedError,
    Source,
    Transfer,
)

_HUB = "https://huggingface.co"
_TIMEOUT = 20.0  # seconds that a server may be silent
_PIN = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class RemoteReference(NamedTuple):
    """A reference `scheme://…`, taken apart.

    Attributes:
        address: the reference without its pin.
        pin: the SHA-256 that the file must have, in hex, if any.
        cache: the folder in which the file is kept.
        transfer: which all requests count to.
    """

    address: str
    pin: str | None
    cache: Path
    transfer: Transfer

    @property
    def scheme(self) -> str:
        return self.address.partition(":")[0]

    def remote_file(self, url: str, source: Source, advice: str = "") -> RemoteFile:
        """The file at `url`, as `cache.fetch` takes it."""
        return RemoteFile(_shown(self.address), url, source, self.pin, self.transfer, advice)


class Scheme(NamedTuple):
    """A kind of reference: its syntax, for people, and how the file of one is fetched."""

    syntax: str
    fetch: Callable[[RemoteReference], Path]


def accepted(schemes: Mapping[str, Scheme]) -> str:
    """The accepted references, for the advice in errors."""
    forms = ", ".join(scheme.syntax for scheme in schemes.values())
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
        schemes: scheme → how it is fetched; by default `SCHEMES`.

    Raises:
        UserError: it is no reference, names no file, does not match its pin, or exceeds the limits.
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
    return scheme.fetch(
        RemoteReference(address, pin.lower() or None, Path(cache).expanduser(), transfer)
    )


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


def _from_web(reference: RemoteReference) -> Path:
    url = clean(reference.address)
    _check(url, _shown(reference.address), reference.transfer)
    return fetch(reference.remote_file(url, HttpSource(_TIMEOUT)), reference.cache)


def _from_hub(reference: RemoteReference) -> Path:
    """Hugging Face's hub, or what HF_ENDPOINT names; HF_TOKEN is shown to that origin alone."""
    path, at, revision = reference.address.removeprefix("hf://").partition("@")
    parts = path.split("/")
    if len(parts) < 3 or {"", ".", ".."} & set(parts) or (at and not revision):
        raise UserError(
            f"{_shown(reference.address)}: must be hf://owner/repo/path/of/the/file[@revision]"
        )
    base = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    _check(base, "HF_ENDPOINT", reference.transfer)
    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        raise UserError("HF_TOKEN: is no token (a token is made of letters, digits and _)")
    repository, file = quote("/".join(parts[:2])), quote("/".join(parts[2:]))
    url = clean(f"{base}/{repository}/resolve/{quote(revision or 'main', safe='')}/{file}")
    web = HttpSource(_TIMEOUT, {origin(url): token} if token else {})
    advice = "" if token else "a private or gated repository needs HF_TOKEN"
    return fetch(reference.remote_file(url, web, advice), reference.cache)


def _from_bucket(reference: RemoteReference) -> Path:
    if "::" in reference.address:
        raise UserError(f"{_shown(reference.address)}: must name one store, without ::")
    bucket = ObjectStoreSource(PACKAGES[reference.scheme])
    return fetch(reference.remote_file(reference.address, bucket), reference.cache)


def _check(url: str, shown: str, transfer: Transfer) -> None:
    try:
        transfer.bounded(partial(check, url))
    except RefusedError as refusal:
        raise UserError(f"{shown}: {refusal}; must be {accepted(SCHEMES)}") from refusal
    except OverLimitError as limit:
        raise UserError(f"{shown} could not be fetched: {limit}") from limit


def require_pin(path: Path, reference: RemoteReference) -> Path:
    """`path`, where it has the SHA-256 that the reference demands.

    Raises:
        UserError: it has another.
    """
    if reference.pin and not matches(path, sha256=reference.pin):
        raise UserError(
            f"{_shown(reference.address)}: its SHA-256 is {digest(path)}, "
            f"not the pinned {reference.pin}"
        )
    return path


SCHEMES: Mapping[str, Scheme] = {
    "https": Scheme("https://…", _from_web),
    "http": Scheme("http://…", _from_web),
    "hf": Scheme("hf://owner/repo/file[@revision]", _from_hub),
    **{name: Scheme(f"{name}://…", _from_bucket) for name in PACKAGES},
}
"""The schemes that need nothing but this package; a caller of `resolve` may add others."""
