"""Fetching against a real web server with real faults, and between real processes."""

from __future__ import annotations

import hashlib
import io
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.config.schema import DataConfig
from perdure.datasets.fetch import _SECONDS, FetchError, fetch, time_limit
from perdure.errors import UserError

if TYPE_CHECKING:
    from tests.datasets.conftest import Answer, Server

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.datasets.fetch._PAUSES", (0.01, 0.02))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "data.bin"


@pytest.fixture
def url(server: Server) -> str:
    server.files["/data.bin"] = DATA
    return server.url("/data.bin")


def get(path: Path, *urls: str, limit: int = 1 << 20, timeout: float = 5.0) -> None:
    assert fetch(urls, path, sha256=SHA256, limit=limit, timeout=timeout) == path
    assert path.read_bytes() == DATA
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def refused(path: Path, *urls: str, limit: int = 1 << 20, timeout: float = 5.0) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(urls, path, sha256=SHA256, limit=limit, timeout=timeout)
    assert not path.exists()
    return str(caught.value)


def test_a_sound_file_is_not_asked_for_again(server: Server, url: str, path: Path) -> None:
    get(path, url)
    get(path, url)
    assert len(server.requests) == 1
    assert fetch([url], path, md5=hashlib.md5(DATA).hexdigest()) == path


def test_a_damaged_file_is_replaced(server: Server, url: str, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(DATA[:-1] + b"?")
    get(path, url)


def _reset(server: Server) -> Answer:
    """Hangs up with RST, as a crashing machine or an impatient firewall does."""

    def answer(handler: object, data: bytes) -> None:
        server.cut(100_000)(handler, data)  # type: ignore[arg-type]
        linger = b"\x01\0\0\0\0\0\0\0"
        handler.connection.setsockopt(1, 13, linger)  # type: ignore[attr-defined]
        handler.connection.close()  # type: ignore[attr-defined]

    return answer


def _stall(server: Server) -> Answer:
    return server.gated(threading.Event(), 150_000)


@pytest.mark.parametrize(
    ("faults", "resumes"),
    [
        pytest.param(lambda s: [s.failing(500)], False, id="500"),
        pytest.param(lambda s: [s.failing(503), s.failing(429)], False, id="503-429"),
        pytest.param(lambda s: [s.cut(200_000)], True, id="cut"),
        pytest.param(lambda s: [s.cut(100_000), s.failing(500)], True, id="cut-then-500"),
        pytest.param(lambda s: [s.cut(200_000), s.whole], True, id="cut-no-ranges"),
        pytest.param(lambda s: [_stall(s)], True, id="stalled"),
        pytest.param(lambda s: [_reset(s)], None, id="reset"),
        pytest.param(lambda s: [lambda h, d: h.body(d, length=-1)], False, id="no-length"),
        pytest.param(lambda s: [s.redirect(s.url("/data.bin"))], False, id="redirect"),
    ],
)
def test_passing_faults_are_overcome(
    server: Server,
    url: str,
    path: Path,
    faults: Callable[[Server], list[Answer]],
    resumes: bool | None,
) -> None:
    server.script.extend(faults(server))
    get(path, url, timeout=0.3)
    if resumes is not None:
        assert (server.requests[-1][1] is not None) is resumes


def test_only_the_rest_is_sent_after_a_cut(server: Server, url: str, path: Path) -> None:
    server.script.append(server.cut(200_000))
    get(path, url)
    assert server.requests[1] == ("/data.bin", "bytes=200000-")
    assert server.sent == len(DATA)


def test_a_later_call_resumes_what_an_earlier_one_left(
    server: Server, url: str, path: Path
) -> None:
    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(path, url)
    get(path, url)
    assert server.sent == len(DATA)


def test_a_complete_part_is_only_checked(server: Server, url: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("data.bin.part").write_bytes(DATA)
    get(path, url)
    assert server.sent == 0


@pytest.mark.parametrize("size", [1_000, len(DATA), len(DATA) + 5], ids=["short", "full", "long"])
def test_a_part_of_something_else_costs_one_start_from_scratch(
    server: Server, url: str, path: Path, size: int
) -> None:
    path.parent.mkdir()
    path.with_name("data.bin.part").write_bytes(b"?" * size)
    get(path, url)
    assert [requested for _, requested in server.requests] == [f"bytes={size}-", None]


@pytest.mark.parametrize(
    "content_range", ["bytes 0-9/10", "bytes 5-", ""], ids=["elsewhere", "torn", "absent"]
)
def test_an_answer_to_another_range_is_not_appended(
    server: Server, url: str, path: Path, content_range: str
) -> None:
    path.parent.mkdir()
    path.with_name("data.bin.part").write_bytes(DATA[:1_000])
    server.script.append(
        lambda handler, data: handler.body(b"?" * 9, 206, Content_Range=content_range)
    )
    get(path, url)
    assert [requested for _, requested in server.requests] == ["bytes=1000-", None]


def test_mirrors_are_tried_in_order(server: Server, url: str, path: Path) -> None:
    server.files["/wrong"] = DATA[::-1]
    get(path, server.url("/none"), server.url("/wrong"), url)
    assert [requested for requested, _ in server.requests] == ["/none", "/wrong", "/data.bin"]


def test_wrong_bytes_are_never_published(server: Server, path: Path) -> None:
    server.files["/wrong"] = DATA[::-1]
    assert "has not the published checksum" in refused(path, server.url("/wrong"))
    assert len(server.requests) == 1
    assert not list(path.parent.iterdir())


def test_wrong_bytes_after_a_resumed_download_are_asked_for_once_more(
    server: Server, path: Path
) -> None:
    server.files["/wrong"] = DATA[::-1]
    server.script.append(server.cut(1_000))
    refused(path, server.url("/wrong"))
    assert [requested for _, requested in server.requests] == [None, "bytes=1000-", None]


def test_a_mirror_that_keeps_failing_is_given_up(server: Server, url: str, path: Path) -> None:
    server.usual = server.failing(502)
    assert "127.0.0.1: HTTP 502" in refused(path, url)
    assert len(server.requests) == 3


def test_nobody_listens(path: Path) -> None:
    assert "Connection refused" in refused(path, "http://127.0.0.1:1/data.bin")


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_away_from_the_web_is_refused(
    server: Server, url: str, path: Path, tmp_path: Path, scheme: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    server.script.append(server.redirect(f"{scheme}://127.0.0.1{secret}"))
    assert "redirect" in refused(path, url).lower()
    assert len(server.requests) == 1


@pytest.mark.parametrize("scheme", ["file://", "ftp://", ""], ids=["file", "ftp", "none"])
def test_only_web_addresses_are_mirrors(path: Path, tmp_path: Path, scheme: str) -> None:
    with pytest.raises(UserError, match="http:// and https:// are accepted"):
        fetch([f"{scheme}{tmp_path}/data.bin"], path, sha256=SHA256)


def test_an_endless_body_ends(server: Server, url: str, path: Path) -> None:
    def endless(handler: object, data: bytes) -> None:
        while True:  # until the client hangs up
            handler.body(data, length=-1)  # type: ignore[attr-defined]

    server.usual = endless
    assert "more than the 1000000 bytes" in refused(path, url, limit=1_000_000)
    assert not list(path.parent.iterdir())


def test_a_file_that_is_announced_too_large_is_not_taken(
    server: Server, url: str, path: Path
) -> None:
    assert "offers 300000 bytes" in refused(path, url, limit=299_999)
    assert not list(path.parent.iterdir())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_progress(url: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    get(path, url)
    assert screen.getvalue().startswith("\rfetching data.bin: 0.1 MB of 0.3 MB from 127.0.0.1")
    assert screen.getvalue().endswith("\n")


def test_a_log_sees_one_line(url: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get(path, url)
    assert capsys.readouterr().err == "fetching data.bin (0.3 MB) from 127.0.0.1\n"


def test_a_checksum_is_not_optional(url: str, path: Path) -> None:
    with pytest.raises(ValueError, match="md5 or sha256"):
        fetch([url], path)


# --- the time for everything together -------------------------------------------------------------


SLOW = "it takes longer than data.max_minutes=0.05 allows"


def test_two_slow_mirrors_are_left(server: Server, url: str, path: Path) -> None:
    server.usual = server.dripping
    began = time.monotonic()
    with time_limit(3 / 60):
        message = refused(path, url, server.url("/data.bin?again"), timeout=600.0)
    assert 3 <= time.monotonic() - began < 60
    assert SLOW in message
    assert len(server.requests) == 1
    server.usual = server.ranged
    get(path, url)
    assert server.requests[-1][1] is not None


def test_mirrors_that_fail_slowly_are_left(
    server: Server, url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.datasets.fetch._PAUSES", (0.01,) * 1000)
    server.usual = server.late(0.3, server.failing(503))
    began = time.monotonic()
    with time_limit(3 / 60):
        message = refused(path, url, server.url("/data.bin?again"), timeout=600.0)
    assert 3 <= time.monotonic() - began < 60
    assert SLOW in message
    assert "HTTP 503" in message


def test_the_files_of_a_data_set_share_its_time(server: Server, url: str, path: Path) -> None:
    with time_limit(3 / 60):
        server.usual = server.dripping
        assert SLOW in refused(path, url, timeout=600.0)
        server.usual = server.ranged
        n_requests = len(server.requests)
        assert SLOW in refused(path.with_name("other.bin"), url)
        assert len(server.requests) == n_requests
        path.write_bytes(DATA)
        assert fetch([url], path, sha256=SHA256) == path  # what is there costs no time
    other = path.with_name("other.bin")
    assert fetch([url], other, sha256=SHA256) == other


def test_outside_of_a_limit_there_is_that_of_the_configuration(
    server: Server, url: str, path: Path
) -> None:
    assert DataConfig().max_minutes * 60 == _SECONDS
    with time_limit(1e-9):
        assert "takes longer" in refused(path, url)
    get(path, url)
