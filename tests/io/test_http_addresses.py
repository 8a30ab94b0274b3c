"""A name is looked up once: what was checked is what is connected to, by name in Host and TLS."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webserver import SecureServer, Server, serving

from perdure.io.http import HttpSource
from perdure.io.transfer import InterruptedTransferError, Limits, RefusedError, Response, Transfer

DATA = b"weights"
METADATA = "169.254.169.254"


class Names:
    """A resolver: name → what each look-up answers, the last one for ever. Numbers are real."""

    def __init__(self) -> None:
        self.answers: dict[str, deque[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def means(self, name: str, *answers: list[str]) -> None:
        self.answers[name] = deque(answers)

    def look_up(self, host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in self.answers:
            return self._real(host, port, *args, **kwargs)
        self.asked.append(host)
        answers = self.answers[host]
        found = answers.popleft() if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port or 0)) for one in found]


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    for key in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)
    made = Names()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        running.files["/x"] = DATA
        yield running


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecureServer]:
    """HTTPS for good.example, which is trusted."""
    with serving(SecureServer(tmp_path, "DNS:good.example")) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        running.files["/x"] = DATA
        yield running


def get(url: str) -> bytes:
    with HttpSource(20.0)(url, 0, {}, {}, Transfer(Limits())) as answer:
        assert isinstance(answer, Response)
        return b"".join(answer.blocks)


# --- rebinding ------------------------------------------------------------------------------------


def test_a_second_answer_of_the_resolver_is_never_used(server: Server, names: Names) -> None:
    names.means("two-faced.example", ["127.0.0.1"], [METADATA])
    assert get(f"http://two-faced.example:{server.server_port}/x") == DATA
    assert names.asked == ["two-faced.example"]
    with pytest.raises(RefusedError, match="metadata service"):
        get(f"http://two-faced.example:{server.server_port}/x")


def test_each_redirect_is_looked_up_once(server: Server, names: Names) -> None:
    names.means("first.example", ["127.0.0.1"], [METADATA])
    names.means("second.example", ["127.0.0.1"], [METADATA])
    server.script.append(server.redirect(f"http://second.example:{server.server_port}/x"))
    assert get(f"http://first.example:{server.server_port}/start") == DATA
    assert names.asked == ["first.example", "second.example"]
    server.script.append(server.redirect(f"http://second.example:{server.server_port}/x"))
    names.means("first.example", ["127.0.0.1"])
    with pytest.raises(RefusedError, match=r"it redirects elsewhere: second\.example"):
        get(f"http://first.example:{server.server_port}/start")


def test_one_forbidden_address_among_others_is_enough(server: Server, names: Names) -> None:
    names.means("mixed.example", ["127.0.0.1", METADATA])
    with pytest.raises(RefusedError, match="metadata service"):
        get(f"http://mixed.example:{server.server_port}/x")
    assert not server.requests


def test_checked_addresses_are_tried_in_turn(server: Server, names: Names) -> None:
    names.means("several.example", ["127.0.0.2", "127.0.0.1"])  # nobody listens at the first
    assert get(f"http://several.example:{server.server_port}/x") == DATA
    names.means("several.example", ["127.0.0.2", "127.0.0.3"])
    with pytest.raises(InterruptedTransferError, match="refused"):
        get(f"http://several.example:{server.server_port}/x")


def test_the_server_receives_the_name(server: Server, names: Names) -> None:
    names.means("named.example", ["127.0.0.1"])
    get(f"http://Named.example:{server.server_port}/x")
    assert server.headers[0]["Host"] == f"Named.example:{server.server_port}"


def test_an_unknown_name_is_an_error(names: Names) -> None:
    with pytest.raises(InterruptedTransferError, match=r"(?i)name|address"):
        get("http://nowhere.invalid/x")


# --- TLS ------------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_certificate_must_be_for_the_name(secure: SecureServer, names: Names) -> None:
    for name in ("good.example", "wrong.example"):
        names.means(name, ["127.0.0.1"], [METADATA])
    assert get(secure.url("/x", "good.example")) == DATA
    with pytest.raises(InterruptedTransferError, match=r"not valid for 'wrong\.example'"):
        get(secure.url("/x", "wrong.example"))
    with pytest.raises(InterruptedTransferError, match=r"not valid for '127\.0\.0\.1'"):
        get(secure.url("/x"))
    assert secure.asked_for == ["good.example", "wrong.example", None]
    assert [asked["Host"] for asked in secure.headers] == [f"good.example:{secure.server_port}"]


# --- proxies --------------------------------------------------------------------------------------


def test_a_proxy_looks_names_up_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url())
    server.files["http://nowhere.invalid/x"] = DATA
    assert get("http://nowhere.invalid/x") == DATA
    assert server.headers[0]["Host"] == "nowhere.invalid"
    for host in (METADATA, "metadata.google.internal"):
        with pytest.raises(RefusedError, match="metadata service"):
            get(f"http://{host}/x")


@pytest.mark.process
def test_a_proxy_is_a_tunnel_for_tls(
    server: Server, secure: SecureServer, monkeypatch: pytest.MonkeyPatch, names: Names
) -> None:
    monkeypatch.setenv("https_proxy", server.url().replace("127.0.0.1", "proxy.example"))
    names.means("proxy.example", ["127.0.0.1"])
    names.means("wrong.example", ["192.0.2.1"])
    server.behind = secure
    assert get("https://good.example/x") == DATA
    with pytest.raises(InterruptedTransferError, match=r"not valid for 'wrong\.example'"):
        get("https://wrong.example/x")
    assert [path for path, _ in server.requests] == ["good.example:443", "wrong.example:443"]
