"""Files over HTTP: where a request and its redirects may lead, and what of a file is asked for."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from perdure.download import Answer, BrokenOffError, RefusedError, Version

SCHEMES = ("http", "https")
_BLOCK = 1 << 16
_HOPS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 425, 429)
_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes (?:(?P<start>[0-9]+)-[0-9]+|\*)/(?P<total>[0-9]+|\*)")
_HOST = re.compile(r"[a-z0-9._:-]+")
# Clouds answer any program of theirs here, with the machine's own credentials. All but these two
# addresses (Alibaba's, and Amazon's over IPv6) are link-local.
_METADATA_NAMES = ("metadata.google.internal", "metadata.goog")
_METADATA = (ipaddress.ip_address("100.100.100.200"), ipaddress.ip_address("fd00:ec2::254"))


@dataclass(frozen=True)
class Web:
    """A `download.Source`.

    `timeout`: seconds a server may be silent. `tokens`: origin -> bearer token; each is shown to
    its origin alone, wherever that redirects to.
    """

    timeout: float
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)

    @contextmanager
    def __call__(
        self, url: str, have: int, part: Version, held: Version, /
    ) -> Iterator[Answer | None]:
        with self._get(url, _conditions(have, part, held)) as response:
            status = response.status
            if status == 304 and held:
                yield None
            elif status in (200, 206) or (status == 416 and have):
                yield _answer(response, have)
            else:
                said = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
                passing = status >= 500 or status in _TRANSIENT
                raise BrokenOffError(said) if passing else RefusedError(said)

    def _get(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        opener = OpenerDirector()  # without a handler of file:, ftp: or data: to be reached
        for handler in (ProxyHandler, HTTPHandler, HTTPSHandler):
            opener.add_handler(handler())
        check(url)
        for _ in range(_HOPS):
            token = self.tokens.get(origin(url))
            sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
            try:
                response = opener.open(Request(url, headers=dict(sent)), timeout=self.timeout)
            except URLError as error:
                raise BrokenOffError(str(error.reason)) from error
            except http.client.HTTPException as error:
                raise BrokenOffError(str(error) or type(error).__name__) from error
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                return response  # type: ignore[no-any-return]
            response.close()
            url = _next(url, target)
        raise RefusedError("it redirects without end")


def clean(url: str, encoding: str = "utf-8") -> str:
    """The address with spaces and letters beyond ASCII escaped, as a browser does."""
    return quote(url, safe=string.punctuation, encoding=encoding)


def origin(url: str) -> str:
    """Scheme, host and port of an address that `check` accepts."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (80, 443)[parts.scheme == 'https']}"


def check(url: str) -> None:
    """Raises RefusedError for an address that must not be asked."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise RefusedError(f"its address is not valid: {error}") from error
    if parts.scheme not in SCHEMES:
        raise RefusedError(f"{parts.scheme}:// is neither http:// nor https://")
    if parts.username is not None:
        raise RefusedError("an address with a user name or password is not accepted")
    if not _HOST.fullmatch(host):
        raise RefusedError("its address names no valid host")
    if host.rstrip(".") in _METADATA_NAMES or any(map(_is_metadata, _addresses(host))):
        raise RefusedError(f"{host} is a cloud's metadata service, which holds no files")


def _addresses(host: str) -> set[str]:
    with suppress(OSError, UnicodeError):  # the connection, or the proxy, will tell what is wrong
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    return set()


def _is_metadata(address: str) -> bool:
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_link_local or found in _METADATA


def _next(url: str, target: str) -> str:
    """Where a redirect leads."""
    try:
        there = urljoin(url, clean(target, "iso-8859-1"))
        check(there)
    except (RefusedError, ValueError) as refusal:
        raise RefusedError(f"it redirects elsewhere: {refusal}") from refusal
    if url.startswith("https:") and not there.startswith("https:"):
        raise RefusedError("it redirects from https:// to http://")
    return there


def _conditions(have: int, part: Version, held: Version) -> dict[str, str]:
    headers = {"User-Agent": "perdure", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if "exact" in part:
            headers["If-Range"] = part["exact"]
    if "etag" in held:
        headers["If-None-Match"] = held["etag"]
    elif "modified" in held:
        headers["If-Modified-Since"] = held["modified"]
    return headers


def _answer(response: http.client.HTTPResponse, have: int) -> Answer:
    """What a 200, 206 or 416 holds; 416 where nothing lies beyond what we have."""
    blocks, start = _blocks(response), 0
    length = response.headers.get("Content-Length", "")
    if response.status != 200:
        told = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        length = told["total"] if told else ""
        start = have if told and told["start"] == str(have) else -1
        if response.status == 416:
            blocks, start = iter(()), have
    total = int(length) if _NUMBER.fullmatch(length) else None
    delimited = total is not None or (start == 0 and bool(response.chunked))
    return Answer(blocks, start, total, delimited, _version(response.headers, total))


def _version(headers: http.client.HTTPMessage, total: int | None) -> Version:
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    told = {
        "etag": etag,
        "modified": modified,
        # RFC 9110, 13.1.5: only a strong tag, or a date where there is no tag at all
        "exact": "" if etag.startswith("W/") else etag or modified,
        "total": "" if total is None else str(total),
    }
    return {
        key: text for key, text in told.items() if text and text.isascii() and text.isprintable()
    }


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read(_BLOCK):
            yield block
    except http.client.HTTPException as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error
