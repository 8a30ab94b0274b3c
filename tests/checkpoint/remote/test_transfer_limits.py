"""The timeout and the maximum size of a whole transfer, against real servers that are slow."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint.fetching import DATA, OTHER, PINNED, get, refused, requests_for
from webserver import Answer, Server

from perdure.checkpoint.remote.references import resolve
from perdure.config.schema import CheckpointConfig
from perdure.io.transfer import Limits

SECONDS = 3.0
PLENTY = 60.0
"""Far below what any of the servers here would take."""
SAID = re.compile(
    r"could not be fetched: it takes longer than checkpoint\.max_minutes=0\.05 allows, "
    r"(\d+) bytes arrived in (\d+\.\d) seconds \(a larger value waits longer\)"
)


@pytest.fixture(autouse=True)
def patient(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else than the limit ends these transfers."""
    monkeypatch.setattr("perdure.checkpoint.remote.references._TIMEOUT", 600.0)


def arrived(ref: str, cache: Path, part: bool = False) -> int:
    """How many bytes came, of a transfer that must end at its limit of time."""
    began = time.monotonic()
    message = refused(ref, cache, seconds=SECONDS, part=part)
    assert SECONDS <= time.monotonic() - began < PLENTY
    found = SAID.search(message)
    assert found, message
    assert float(found[2]) >= SECONDS
    return int(found[1])


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda s: s.silent, id="silent"),
        pytest.param(lambda s: s.dripping_headers, id="headers"),
        pytest.param(lambda s: s.late(0.3, s.redirect("er.pt")), id="redirects"),
        pytest.param(lambda s: s.late(0.3, s.failing(503)), id="failures"),
    ],
)
@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_a_slow_server_without_a_body_is_left(
    server: Server,
    url: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Server], Answer],
    pin: str,
) -> None:
    monkeypatch.setattr("perdure.checkpoint.remote.cache._PAUSES", (0.01,) * 1000)
    server.usual = answer(server)
    assert arrived(url + pin, cache) == 0


@pytest.mark.parametrize(
    "answer",
    [Server.dripping, Server.dripping_without_end, Server.dripping_chunks],
    ids=["length", "no-length", "chunked"],
)
def test_what_a_slow_server_has_sent_is_counted_and_kept(
    server: Server, url: str, cache: Path, answer: Answer
) -> None:
    server.usual = answer
    n_bytes = arrived(url, cache, part=True)
    (part,) = cache.glob("*.part")
    assert 0 < n_bytes == part.stat().st_size


def test_the_next_command_resumes_from_there(server: Server, url: str, cache: Path) -> None:
    server.usual = server.dripping
    n_bytes = arrived(url, cache, part=True)
    server.usual = server.ranged
    get(url, cache)
    assert requests_for(server) == [None, f"bytes={n_bytes}-"]


def test_pauses_between_attempts_count(
    server: Server, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.checkpoint.remote.cache._PAUSES", (600.0, 600.0))
    server.usual = server.failing(503)
    began = time.monotonic()
    message = refused(url, cache, seconds=SECONDS)
    assert time.monotonic() - began < PLENTY
    assert SAID.search(message)
    assert message.endswith("; 127.0.0.1: HTTP 503 Service Unavailable")
    assert len(server.requests) == 1


@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_the_sidecar_counts(server: Server, url: str, cache: Path, pin: str) -> None:
    server.script.append(server.ranged)
    server.usual = server.dripping_headers
    assert arrived(url + pin, cache, part=True) == len(DATA)
    assert [path for path, _ in server.requests] == ["/er.pt", "/er.pt.json"]
    server.usual = server.ranged
    get(url + pin, cache)
    assert requests_for(server) == [None, f"bytes={len(DATA)}-"]


def test_a_handshake_counts(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # connects, and never says a word
        port = listening.getsockname()[1]
        assert arrived(f"https://127.0.0.1:{port}/er.pt", cache) == 0


def test_a_name_server_counts(
    server: Server, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> list[Any]:
        time.sleep(2 * PLENTY)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    assert arrived(url, cache) == 0


def test_a_copy_is_used_where_the_server_is_too_slow_to_say_whether_it_changed(
    server: Server, url: str, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = get(url, cache)
    server.files["/er.pt"], server.tells["/er.pt"] = OTHER, {"ETag": '"2"'}
    server.usual = server.dripping
    assert resolve(url, cache, limits=Limits(SECONDS)) == path
    assert path.read_bytes() == DATA
    (warning,) = caplog.messages
    assert warning.startswith(f"{url} could not be checked for changes (it takes longer than ")


# --- bytes ----------------------------------------------------------------------------------------


def test_what_all_attempts_bring_counts_together(server: Server, url: str, cache: Path) -> None:
    server.tells["/er.pt"] = {}  # so that each starts again
    server.usual = server.cut(200_000)
    message = refused(url, cache, limit=500_000, part=True)
    assert "sends more than the 500000 bytes that checkpoint.max_gigabytes=0.0005 allows" in message
    assert requests_for(server) == [None, None, None]
    assert server.sent == 600_000


def test_a_resumed_transfer_counts_only_its_own_bytes(
    server: Server, url: str, cache: Path
) -> None:
    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(url, cache, limit=300_000, part=True)
    assert resolve(url, cache, limits=Limits(n_bytes=300_000)).read_bytes() == DATA


# --- the configuration ----------------------------------------------------------------------------


def test_the_limits_are_those_of_the_configuration() -> None:
    keys = CheckpointConfig()
    assert Limits() == Limits(keys.max_minutes * 60, int(keys.max_gigabytes * 1e9))
