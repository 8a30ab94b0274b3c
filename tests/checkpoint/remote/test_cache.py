"""What is kept of remote checkpoints, and what is asked again."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checkpoint.fetching import DATA, OTHER, PINNED, SHA256, get, refused, requests_for
from webserver import Server

from perdure.checkpoint.remote.references import resolve
from perdure.errors import UserError

DATE = {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}


# --- pinned ---------------------------------------------------------------------------------------


def test_a_pinned_file_is_requested_once(server: Server, url: str, cache: Path) -> None:
    path = get(url + PINNED, cache)
    assert path.name == f"{SHA256}.pt"
    n = len(server.requests)
    assert get(url + PINNED.upper().replace("#SHA256", "#sha256"), cache) == path
    assert get(f"http://nowhere.invalid/er.pt{PINNED}", cache) == path
    assert len(server.requests) == n


def test_a_pinned_file_that_was_damaged_is_fetched_again(
    server: Server, url: str, cache: Path
) -> None:
    path = get(url + PINNED, cache)
    path.write_bytes(DATA[:-1] + b"?")
    get(url + PINNED, cache)
    assert requests_for(server) == [None, None]


def test_a_record_cannot_stand_in_for_the_pin(server: Server, url: str, cache: Path) -> None:
    path = get(url + PINNED, cache)
    path.write_bytes(OTHER)
    about = {"sha256": hashlib.sha256(OTHER).hexdigest(), "etag": '"1"', "exact": '"1"'}
    path.with_name(f"{path.name}.version").write_text(json.dumps(about))
    get(url + PINNED, cache)


# --- not pinned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [{"ETag": '"1"'}, {"ETag": 'W/"1"'}, DATE], ids=str)
def test_an_unchanged_file_is_not_sent_again(
    server: Server, url: str, cache: Path, version: dict[str, str]
) -> None:
    server.tells["/er.pt"] = version
    path = get(url, cache)
    assert path.name.endswith("-er.pt")
    for _ in range(2):
        assert get(url, cache) == path
    assert server.sent == len(DATA)


@pytest.mark.parametrize(
    ("before", "after"),
    [({"ETag": '"1"'}, {"ETag": '"2"'}), (DATE, {"Last_Modified": "later"}), ({}, {})],
    ids=["tag", "date", "nothing"],
)
def test_a_changed_file_is_fetched(
    server: Server, url: str, cache: Path, before: dict[str, str], after: dict[str, str]
) -> None:
    server.tells["/er.pt"] = before
    path = get(url, cache)
    server.files["/er.pt"], server.tells["/er.pt"] = OTHER, after
    assert get(url, cache, OTHER) == path


def test_two_addresses_are_two_files(server: Server, url: str, cache: Path) -> None:
    server.files["/other/er.pt"] = OTHER
    assert resolve(url, cache) != resolve(server.url("/other/er.pt"), cache)
    assert resolve(url, cache).read_bytes() == DATA


@pytest.mark.parametrize("version", [{"ETag": '"1"'}, {}], ids=["tag", "nothing"])
@pytest.mark.parametrize("fault", ["down", "500", "cut"])
def test_a_server_that_does_not_answer_costs_one_warning(
    server: Server,
    url: str,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    version: dict[str, str],
    fault: str,
) -> None:
    server.tells["/er.pt"] = version
    path = get(url, cache)
    server.tells["/er.pt"] = {"ETag": '"2"'}
    if fault == "down":
        server.server_close()
        server.socket.close()
    else:
        server.usual = server.failing(500) if fault == "500" else server.cut(0)
    assert resolve(url, cache) == path
    assert path.read_bytes() == DATA
    (warning,) = caplog.messages
    assert warning.startswith(f"{url} could not be checked for changes (127.0.0.1: ")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_the_server_refuses_now_is_not_used(
    server: Server, url: str, cache: Path, status: int
) -> None:
    path = get(url, cache)
    server.usual = server.failing(status)
    with pytest.raises(UserError, match=f"HTTP {status}"):
        resolve(url, cache)
    server.usual = server.ranged
    assert get(url, cache) == path


@pytest.mark.parametrize("harm", ["damaged", "truncated", "no-record", "record-torn", "gone"])
def test_a_copy_that_is_not_whole_is_replaced_and_never_used(
    server: Server, url: str, cache: Path, harm: str
) -> None:
    path = get(url, cache)
    record = path.with_name(f"{path.name}.version")
    if harm in ("damaged", "truncated"):
        path.write_bytes(DATA[:-1] + b"?" if harm == "damaged" else DATA[:-1])
    elif harm == "gone":
        path.unlink()
    else:
        record.write_text("[{") if harm == "record-torn" else record.unlink()
    server.usual = server.failing(500)
    with pytest.raises(UserError, match="HTTP 500"):
        resolve(url, cache)
    server.usual = server.ranged
    get(url, cache)


def test_a_failed_update_loses_nothing(server: Server, url: str, cache: Path) -> None:
    path = get(url, cache)
    server.files["/er.pt"], server.tells["/er.pt"] = OTHER, {"ETag": '"2"'}
    server.script.extend([server.cut(100_000), server.failing(404)])
    with pytest.raises(UserError):
        resolve(url, cache)
    assert path.read_bytes() == DATA
    get(url, cache, OTHER)
    assert requests_for(server)[-1] == "bytes=100000-"


def test_what_came_of_a_version_that_was_taken_back_goes(
    server: Server, url: str, cache: Path
) -> None:
    get(url, cache)
    server.files["/er.pt"], server.tells["/er.pt"] = OTHER, {"ETag": '"2"'}
    server.script.extend([server.cut(100_000), server.failing(404)])
    with pytest.raises(UserError):
        resolve(url, cache)
    server.files["/er.pt"], server.tells["/er.pt"] = DATA, {"ETag": '"1"'}
    get(url, cache)


def test_a_version_is_not_taken_for_that_of_an_earlier_part(
    server: Server, url: str, cache: Path
) -> None:
    server.script.extend([server.cut(100_000), server.failing(404)])
    refused(url, cache, part=True)
    server.files["/er.pt"], server.tells["/er.pt"] = OTHER, {}
    get(url, cache, OTHER)
    server.files["/er.pt"], server.tells["/er.pt"] = DATA, {"ETag": '"1"'}
    get(url, cache)


@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_two_that_want_one_file_wait_for_each_other(
    server: Server, url: str, cache: Path, pin: str
) -> None:
    gate = threading.Event()
    server.script.append(server.gated(gate, 100_000))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(resolve, url + pin, cache) for _ in range(2)]
        gate.set()
        assert both[0].result() == both[1].result()
    assert server.sent == len(DATA)


def test_a_cache_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*/file/cache .*PERDURE_CACHE=FOLDER"):
        resolve(url, tmp_path / "file" / "cache")
