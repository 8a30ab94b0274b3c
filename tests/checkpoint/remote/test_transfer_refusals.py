"""Remote checkpoints from a real web server with faults that stay: nothing is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint.fetching import DATA, PINNED, SHA256, get, refused, requests_for
from webserver import Answer, Handler, SecureServer, Server, serving

from perdure.checkpoint.remote.references import resolve
from perdure.io.transfer import Limits


def test_a_server_that_keeps_failing_is_given_up(server: Server, url: str, cache: Path) -> None:
    server.usual = server.failing(502)
    assert "HTTP 502 Bad Gateway" in refused(url, cache)
    assert len(server.requests) == 3


def test_a_missing_file_is_requested_once(server: Server, cache: Path) -> None:
    message = refused(server.url("/none.pt"), cache)
    assert (
        message == f"{server.url('/none.pt')} could not be fetched: 127.0.0.1: HTTP 404 Not Found"
    )
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [204, 304, 400, 416])
def test_an_answer_to_no_request_is_refused(
    server: Server, url: str, cache: Path, status: int
) -> None:
    server.usual = lambda handler, data: handler.body(b"", status)
    assert f"HTTP {status}" in refused(url, cache)
    assert len(server.requests) == 1


def test_nobody_listens(server: Server, cache: Path) -> None:
    assert "refused" in refused("http://127.0.0.1:1/er.pt", cache)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda s: s.cut(200_000), id="length"),
        pytest.param(lambda s: s.chunked(last=False), id="chunked"),
    ],
)
@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_a_truncated_file_is_not_kept(
    server: Server, url: str, cache: Path, fault: Callable[[Server], Answer], pin: str
) -> None:
    server.usual = fault(server)
    assert "could not be fetched" in refused(url + pin, cache, part=True)


def test_a_body_without_an_end_of_its_own_counts_only_if_pinned(
    server: Server, url: str, cache: Path
) -> None:
    server.usual = lambda handler, data: handler.body(data, length=-1)
    assert "does not mark where the file ends" in refused(url, cache)
    get(url + PINNED, cache)


@pytest.mark.parametrize("body", [Server.endless, Server.endless_chunks], ids=["plain", "chunked"])
@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_an_endless_body_ends(
    server: Server, url: str, cache: Path, body: Answer, pin: str
) -> None:
    server.usual = body
    message = refused(url + pin, cache, limit=1_000_000)
    assert "more than the 1000000 bytes that checkpoint.max_gigabytes=0.001 allows" in message


def test_a_file_announced_too_large_is_not_taken(server: Server, url: str, cache: Path) -> None:
    def huge(handler: Handler, data: bytes) -> None:
        handler.body(b"", length=10**12)
        handler.server.sent = -1 if handler.rfile.read(1) else 0  # waits until the client leaves

    server.script.append(huge)
    assert "offers 1000000000000 bytes, more than the 21474836480" in refused(
        url, cache, limit=20 * 2**30
    )
    assert "offers 300000 bytes, more than the 299999 that checkpoint.max_gigabytes=" in refused(
        url, cache, limit=299_999
    )
    assert resolve(url, cache, limits=Limits(n_bytes=300_000)).read_bytes() == DATA


def test_a_wrong_pin_keeps_nothing(server: Server, url: str, cache: Path) -> None:
    message = refused(f"{url}#sha256={'0' * 64}", cache)
    assert f"its SHA-256 is {SHA256}, not the pinned one" in message
    assert len(server.requests) == 1
    server.script.append(server.cut(1_000))
    refused(f"{url}#sha256={'0' * 64}", cache)
    assert requests_for(server) == [None, None, "bytes=1000-", None]


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/er.pt",
        "data:,x",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://0xA9FEA9FE/",
        "http://me:secret@127.0.0.1/er.pt",
        "http://[::1/er.pt",
    ],
    ids=str,
)
def test_a_redirect_elsewhere_is_refused(
    server: Server, url: str, cache: Path, target: str
) -> None:
    server.script.append(server.redirect(target))
    message = refused(url, cache)
    assert "it redirects elsewhere" in message
    assert "secret" not in message
    assert len(server.requests) == 1


def test_a_redirect_loop_ends(server: Server, url: str, cache: Path) -> None:
    server.usual = server.redirect(url)
    assert "redirects without end" in refused(url, cache)
    assert len(server.requests) == 10


@pytest.mark.process
def test_a_redirect_from_https_to_http_is_refused(
    server: Server, url: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = SecureServer(tmp_path, "IP:127.0.0.1")
    there = secure.url("/er.pt")
    with serving(secure):
        assert "certificate" in refused(there, cache)
        monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificate))
        secure.script.append(secure.redirect(url))
        assert "from https:// to http://" in refused(there, cache)
        assert not server.requests
        server.script.append(server.redirect(there))  # the other direction is fine
        secure.files["/er.pt"] = DATA
        get(url, cache)
