"""Remote checkpoints from a real web server with faults that pass: nothing is sent twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint.fetching import DATA, OTHER, PINNED, SHA256, get, refused, requests_for
from webserver import Answer, Handler, Server

from perdure.checkpoint.remote.references import resolve

# --- faults that pass -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(lambda s: [s.failing(500)], id="500"),
        pytest.param(lambda s: [s.failing(503), s.failing(429)], id="503-429"),
        pytest.param(lambda s: [s.cut(200_000)], id="cut"),
        pytest.param(lambda s: [s.cut(100_000), s.failing(502)], id="cut-then-502"),
        pytest.param(lambda s: [s.cut(200_000), s.whole], id="cut-no-ranges"),
        pytest.param(lambda s: [s.stalled], id="stalled"),
        pytest.param(lambda s: [s.reset], id="reset"),
        pytest.param(lambda s: [s.chunked()], id="chunked"),
        pytest.param(lambda s: [s.chunked(last=False)], id="chunked-cut"),
        pytest.param(lambda s: [s.redirect(s.url("/er.pt"))], id="redirect"),
        pytest.param(lambda s: [s.redirect("er.pt")], id="relative-redirect"),
        pytest.param(lambda s: [s.redirect(s.url("/er.pt"))] * 9, id="9-redirects"),
    ],
)
@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_passing_faults_are_overcome(
    server: Server,
    url: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: Callable[[Server], list[Answer]],
    pin: str,
) -> None:
    monkeypatch.setattr("perdure.checkpoint.remote.references._TIMEOUT", 0.2)
    server.script.extend(faults(server))
    get(url + pin, cache)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version",
    [{"ETag": '"1"'}, {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}],
    ids=["tag", "date"],
)
def test_only_the_rest_is_sent_after_a_cut(
    server: Server, url: str, cache: Path, version: dict[str, str]
) -> None:
    server.tells["/er.pt"] = version
    server.script.append(server.cut(200_000))
    get(url, cache)
    assert requests_for(server) == [None, "bytes=200000-"]
    assert server.headers[1]["If-Range"] in version.values()


@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_a_later_call_resumes(server: Server, url: str, cache: Path, pin: str) -> None:
    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(url + pin, cache, part=True)
    get(url + pin, cache)
    assert requests_for(server)[-1] == "bytes=200000-"


def test_a_file_that_changed_meanwhile_is_taken_whole(
    server: Server, url: str, cache: Path
) -> None:
    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(url, cache, part=True)
    server.files["/er.pt"] = OTHER
    server.tells["/er.pt"] = {"ETag": '"2"'}
    get(url, cache, OTHER)
    assert requests_for(server) == [None, "bytes=200000-", "bytes=200000-"]
    assert server.headers[-2]["If-Range"] == '"1"'


def test_a_server_that_overlooks_if_range_cannot_mix_two_files(
    server: Server, url: str, cache: Path
) -> None:
    def rest(handler: Handler, data: bytes) -> None:
        sent = f"bytes 200000-{len(data) - 1}/{len(data)}"
        handler.body(data[200_000:], 206, Content_Range=sent)

    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(url, cache, part=True)
    server.files["/er.pt"] = OTHER
    server.tells["/er.pt"] = {"ETag": '"2"'}
    server.script.append(rest)
    get(url, cache, OTHER)
    server.tells["/er.pt"] = {}


@pytest.mark.parametrize(
    "content_range", ["bytes 100000-299999/300000", "bytes 0-9/10", "bytes 5-", ""], ids=str
)
def test_an_answer_to_another_range_is_not_appended(
    server: Server, url: str, cache: Path, content_range: str
) -> None:
    def elsewhere(handler: Handler, data: bytes) -> None:
        handler.body(data[200_000:], 206, Content_Range=content_range)

    server.script.extend([server.cut(200_000), elsewhere])
    get(url, cache)
    assert requests_for(server) == [None, "bytes=200000-", None]


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"1"'}], ids=["nothing", "weak-tag"])
def test_without_a_sure_sign_of_the_version_only_a_pinned_file_resumes(
    server: Server, url: str, cache: Path, version: dict[str, str]
) -> None:
    server.tells["/er.pt"] = version
    server.script.append(server.cut(200_000))
    get(url, cache)
    assert requests_for(server) == [None, None]
    server.script.append(server.cut(200_000))
    resolve(url + PINNED, cache)
    assert requests_for(server) == [None, None, None, "bytes=200000-"]


@pytest.mark.parametrize("size", [1_000, len(DATA), len(DATA) + 5], ids=["short", "full", "long"])
def test_a_part_of_something_else_does_no_harm(
    server: Server, url: str, cache: Path, size: int
) -> None:
    cache.mkdir()
    (cache / f"{SHA256}.pt.part").write_bytes(b"?" * size)
    get(url + PINNED, cache)
    assert requests_for(server) == [f"bytes={size}-", None]


def test_a_finished_part_is_not_sent_again(server: Server, url: str, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{SHA256}.pt.part").write_bytes(DATA)
    get(url + PINNED, cache)
    assert requests_for(server) == [f"bytes={len(DATA)}-"]


def test_a_pinned_file_resumes_from_another_address(server: Server, url: str, cache: Path) -> None:
    server.script.extend([server.cut(200_000), server.failing(404)])
    refused(url + PINNED, cache, part=True)
    server.files["/mirror/er.pt"], server.tells["/mirror/er.pt"] = DATA, {"ETag": '"mirrored"'}
    get(server.url("/mirror/er.pt") + PINNED, cache)
    assert server.sent == len(DATA)
