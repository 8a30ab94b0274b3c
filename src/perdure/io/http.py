"""HTTP downloads: GET with range and If-None-Match, redirects, tokens, and which hosts are allowed.

A name is looked up once (getaddrinfo); what is checked is what is connected to, so no DNS server
can give one address to the check and another to the connection (DNS rebinding). Addresses of cloud
metadata services are refused (server-side request forgery).
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import AbstractHTTPHandler, OpenerDirector, ProxyHandler, Request

from perdure.io.transfer import (
    FileVersion,
    InterruptedTransferError,
    OverLimitError,
    RefusedError,
    Response,
    Transfer,
)

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
class ResolvedHost:
    """The addresses of a host.

    Attributes:
        addresses: as `socket.getaddrinfo` returns them.
        failure: why there are none; a proxy may find them all the same.
    """

    addresses: tuple[Any, ...]
    failure: Exception | None = None


@dataclass(frozen=True)
class HttpSource:
    """A `transfer.Source` over HTTP and HTTPS.

    Attributes:
        timeout: seconds that a server may be silent.
        tokens: origin → bearer token; each is sent to its origin alone, whatever that redirects to.
    """

    timeout: float
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)

    @contextmanager
    def __call__(
        self,
        url: str,
        offset: int,
        part: FileVersion,
        cached: FileVersion,
        transfer: Transfer,
        /,
    ) -> Iterator[Response | None]:
        with self._get(url, _conditions(offset, part, cached), transfer) as response:
            status = response.status
            if status == 304 and cached:
                yield None
            elif status in (200, 206) or (status == 416 and offset):
                yield _response(response, offset)
            else:
                reason = f"HTTP {status} {http.client.responses.get(status, '')}".strip()
                transient = status >= 500 or status in _TRANSIENT
                raise InterruptedTransferError(reason) if transient else RefusedError(reason)

    def _get(self, url: str, headers: Mapping[str, str], transfer: Transfer) -> HTTPResponse:
        place = transfer.bounded(partial(check, url))
        for _ in range(_HOPS):
            token = self.tokens.get(origin(url))
            sent = {**headers, "Authorization": f"Bearer {token}"} if token else headers
            request = Request(url, headers=dict(sent))
            opener = OpenerDirector()  # without a handler of file:, ftp: or data: to be reached
            opener.add_handler(ProxyHandler())
            opener.add_handler(_Handler(place, request.host, self.timeout, transfer))
            try:
                response = opener.open(request, timeout=self.timeout)
            except URLError as error:
                raise InterruptedTransferError(str(error.reason)) from error
            except http.client.HTTPException as error:
                raise InterruptedTransferError(str(error) or type(error).__name__) from error
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                return response  # type: ignore[no-any-return]
            response.close()
            url, place = transfer.bounded(partial(_next, url, target))
        raise RefusedError("it redirects without end")


class _Handler(AbstractHTTPHandler):
    """Opens connections to the addresses that were checked; the name stays for Host and TLS."""

    def __init__(self, place: ResolvedHost, host: str, silence: float, transfer: Transfer) -> None:
        super().__init__()
        self._place, self._host = place, host
        self._timeout = partial(transfer.timeout, silence)
        self._transfer = transfer

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connection, HTTPSConnection), request)

    http_request = https_request = AbstractHTTPHandler.do_request_

    def _connection(
        self, kind: type[HTTPConnection], host: str, /, timeout: float
    ) -> HTTPConnection:
        made: Any = kind(host, timeout=timeout)
        # Only a proxy takes the place of the host in a request: its name is the user's setting.
        made._create_connection = self._connect if host == self._host else self._connect_to_proxy
        made.response_class = self._response
        return made  # type: ignore[no-any-return]

    def _connect(self, *_: object) -> socket.socket:
        return _connect(self._place, self._timeout)

    def _connect_to_proxy(self, address: tuple[str, int], *_: object) -> socket.socket:
        return _connect(self._transfer.bounded(partial(_look_up, *address)), self._timeout)

    def _response(self, connected: socket.socket, *options: Any, **more: Any) -> HTTPResponse:
        reader: Any = _Reader(connected, self._timeout)
        return HTTPResponse(reader, *options, **more)


class _Reader(io.RawIOBase):
    """What a socket receives. Each piece has its own timeout: headers may come byte by byte."""

    def __init__(self, connected: socket.socket, timeout: Callable[[], float]) -> None:
        self._connected = connected
        self._file = connected.makefile("rb", buffering=0)
        self._timeout = timeout

    def makefile(self, _: str) -> io.BufferedReader:
        """What HTTPResponse needs of a socket."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connected.settimeout(self._timeout())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def clean(url: str, encoding: str = "utf-8") -> str:
    """The address with spaces and letters beyond ASCII escaped, as a browser does."""
    return quote(url, safe=string.punctuation, encoding=encoding)


def origin(url: str) -> str:
    """Scheme, host and port of an address that `check` accepts."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (80, 443)[parts.scheme == 'https']}"


def check(url: str) -> ResolvedHost:
    """Look up the host of an address. Raises RefusedError for one that is not allowed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise RefusedError(f"its address is not valid: {error}") from error
    if parts.scheme not in SCHEMES:
        raise RefusedError(f"{parts.scheme}:// is neither http:// nor https://")
    if parts.username is not None:
        raise RefusedError("an address with a user name or password is not accepted")
    if not _HOST.fullmatch(host):
        raise RefusedError("its address names no valid host")
    place = _look_up(host, port or (80, 443)[parts.scheme == "https"])
    found = (str(address[0]) for *_, address in place.addresses)
    if host.rstrip(".") in _METADATA_NAMES or any(map(_is_metadata, found)):
        raise RefusedError(f"{host} is a cloud's metadata service, which holds no files")
    return place


def _look_up(host: str, port: int) -> ResolvedHost:
    try:
        return ResolvedHost(tuple(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)))
    except (OSError, UnicodeError) as error:
        return ResolvedHost((), error)


def _connect(place: ResolvedHost, timeout: Callable[[], float]) -> socket.socket:
    """A connection to the first address that answers. Raises OSError and OverLimitError."""
    failure = place.failure
    for family, kind, protocol, _, address in place.addresses:
        try:
            made = socket.socket(family, kind, protocol)
        except OSError as error:  # no IPv6 here, for example
            failure = error
            continue
        try:
            made.settimeout(timeout())
            made.connect(address)
            made.settimeout(timeout())  # for the TLS handshake and the request
        except BaseException as error:
            made.close()
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return made
    raise OSError(str(failure)) from failure


def _is_metadata(address: str) -> bool:
    found = ipaddress.ip_address(address)
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_link_local or found in _METADATA


def _next(url: str, target: str) -> tuple[str, ResolvedHost]:
    """Where a redirect leads."""
    try:
        there = urljoin(url, clean(target, "iso-8859-1"))
        place = check(there)
    except (RefusedError, ValueError) as refusal:
        raise RefusedError(f"it redirects elsewhere: {refusal}") from refusal
    if url.startswith("https:") and not there.startswith("https:"):
        raise RefusedError("it redirects from https:// to http://")
    return there, place


def _conditions(offset: int, part: FileVersion, cached: FileVersion) -> dict[str, str]:
    headers = {"User-Agent": "perdure", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if "exact" in part:
            headers["If-Range"] = part["exact"]
    if "etag" in cached:
        headers["If-None-Match"] = cached["etag"]
    elif "modified" in cached:
        headers["If-Modified-Since"] = cached["modified"]
    return headers


def _response(response: HTTPResponse, offset: int) -> Response:
    """What a 200, 206 or 416 holds; 416 where nothing lies beyond `offset`."""
    blocks, start = _blocks(response), 0
    length = response.headers.get("Content-Length", "")
    if response.status != 200:
        content_range = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        length = content_range["total"] if content_range else ""
        start = offset if content_range and content_range["start"] == str(offset) else -1
        if response.status == 416:
            blocks, start = iter(()), offset
    total = int(length) if _NUMBER.fullmatch(length) else None
    delimited = total is not None or (start == 0 and bool(response.chunked))
    return Response(blocks, start, total, delimited, _version(response.headers, total))


def _version(headers: http.client.HTTPMessage, total: int | None) -> FileVersion:
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    version = {
        "etag": etag,
        "modified": modified,
        # RFC 9110, 13.1.5: only a strong tag, or a date where there is no tag at all
        "exact": "" if etag.startswith("W/") else etag or modified,
        "total": "" if total is None else str(total),
    }
    return {
        key: text for key, text in version.items() if text and text.isascii() and text.isprintable()
    }


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """What arrives; also what a slow or broken transfer had begun of the last block."""
    failure: Exception | None = None
    while failure is None:
        block = bytearray()
        try:
            while len(block) < _BLOCK and (piece := response.read1(_BLOCK - len(block))):
                block += piece
        except (OSError, http.client.HTTPException, OverLimitError) as error:
            failure = error
        if block:
            yield bytes(block)
        elif failure is None:
            return
    if isinstance(failure, http.client.HTTPException):
        raise InterruptedTransferError(str(failure) or type(failure).__name__) from failure
    raise failure
