"""What is kept of remote checkpoints, and what is asked again."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from checkpoint.fetching import DATA, OTHER, PINNED, SHA256, asked, get, refused
from webserver import Server

from perdure.checkpoint import format as files
from perdure.checkpoint.references import resolve
from perdure.errors import UserError

DATE = {"Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}


# --- pinned ---------------------------------------------------------------------------------------


def test_a_pinned_file_is_asked_for_once(server: Server, url: str, cache: Path) -> None:
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
    assert asked(server) == [None, None]


def test_a_record_cannot_stand_in_for_the_pin(server: Server, url: str, cache: Path) -> None:
    path = get(url + PINNED, cache)
    path.write_bytes(OTHER)
    about = {"sha256": hashlib.sha256(OTHER).hexdigest(), "etag": '"1"', "exact": '"1"'}
    path.with_name(f"{path.name}.version").write_text(json.dumps(about))
    get(url + PINNED, cache)


# --- not pinned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{"ETag": '"1"'}, {"ETag": 'W/"1"'}, DATE], ids=str)
def test_an_unchanged_file_is_not_sent_again(
    server: Server, url: str, cache: Path, told: dict[str, str]
) -> None:
    server.tells["/er.pt"] = told
    path = get(url, cache)
    assert path.name.endswith("-er.pt")
    for _ in range(2):
        assert get(url, cache) == path
    assert server.sent == len(DATA)


@pytest.mark.parametrize(
    ("before", "after"),
    [({"ETag": '"1"'}, {"ETag": '"2"'}), (DATE, {"Last_Modified": "later"}), ({}, {})],
    ids=["tag", "date", "nothing-told"],
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


@pytest.mark.parametrize("told", [{"ETag": '"1"'}, {}], ids=["tag", "nothing-told"])
@pytest.mark.parametrize("fault", ["down", "500", "cut"])
def test_a_server_that_does_not_answer_costs_one_warning(
    server: Server,
    url: str,
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    told: dict[str, str],
    fault: str,
) -> None:
    server.tells["/er.pt"] = told
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
    assert asked(server)[-1] == "bytes=100000-"


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


# --- sidecars -------------------------------------------------------------------------------------


@pytest.fixture
def ours(server: Server, url: str, tmp_path: Path) -> str:
    """A checkpoint of ours and its sidecar on the server; the pin of it."""
    path = tmp_path / "made" / "er.pt"
    path.parent.mkdir()
    files.write(path, {"model": {"w": torch.arange(50_000.0)}}, {"position": {"step": 3}})
    server.files["/er.pt"] = path.read_bytes()
    server.files["/er.pt.json"] = files.sidecar(path).read_bytes()
    return f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("pinned", [False, True], ids=["unpinned", "pinned"])
def test_a_checkpoint_of_ours_can_be_read(
    server: Server, url: str, cache: Path, ours: str, pinned: bool
) -> None:
    for _ in range(2):
        path = resolve(url + ours * pinned, cache)
        assert torch.equal(files.read(path)["model"]["w"], torch.arange(50_000.0))
    assert {f.name.removeprefix(path.name) for f in cache.iterdir()} == {"", ".json", ".version"}
    assert len(asked(server, "/er.pt.json")) == 1


def test_the_sidecar_is_beside_the_path_not_the_query(
    server: Server, cache: Path, ours: str
) -> None:
    for name in ("/er.pt", "/er.pt.json"):
        server.files[f"{name}?download=1"] = server.files[name]
    assert "model" in files.read(resolve(server.url("/er.pt?download=1"), cache))


def test_a_new_version_comes_with_its_own_sidecar(
    server: Server, url: str, cache: Path, ours: str, tmp_path: Path
) -> None:
    resolve(url, cache)
    newer = tmp_path / "made" / "newer.pt"
    files.write(newer, {"model": 4}, {"position": {"step": 4}})
    server.files["/er.pt"], server.tells["/er.pt"] = newer.read_bytes(), {"ETag": '"2"'}
    server.files["/er.pt.json"] = files.sidecar(newer).read_bytes()
    assert files.read(resolve(url, cache))["model"] == 4
    server.files["/er.pt"], server.tells["/er.pt"] = DATA, {"ETag": '"3"'}
    del server.files["/er.pt.json"]
    get(url, cache)


def test_a_file_that_its_sidecar_does_not_fit_is_refused(
    server: Server, url: str, cache: Path, ours: str
) -> None:
    flipped = bytearray(server.files["/er.pt"])
    flipped[1000] ^= 1
    server.files["/er.pt"] = bytes(flipped)
    assert "not the one in its sidecar" in refused(url, cache)


def test_a_pinned_file_is_kept_without_a_sidecar_that_is_of_another(
    server: Server, url: str, cache: Path, ours: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/er.pt"] = DATA
    get(url + PINNED, cache)
    assert caplog.messages == [f"the sidecar of {url} is of another file"]


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html>",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"sha256": 1, "bytes": 1, "format": 1}',
        b" " * (1 << 20) + b"{}",
    ],
    ids=["page", "deep", "list", "empty", "kinds", "too-large"],
)
@pytest.mark.parametrize("pin", ["", PINNED], ids=["unpinned", "pinned"])
def test_what_is_no_sidecar_of_ours_is_not_kept(
    server: Server, url: str, cache: Path, body: bytes, pin: str
) -> None:
    server.files["/er.pt.json"] = body
    get(url + pin, cache)


@pytest.mark.parametrize("pinned", [False, True], ids=["unpinned", "pinned"])
@pytest.mark.parametrize("harm", ["not-fetched", "damaged", "gone"])
def test_a_sidecar_that_lacks_is_asked_for_again(
    server: Server,
    url: str,
    cache: Path,
    ours: str,
    pinned: bool,
    harm: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if harm == "not-fetched":
        server.script.extend([server.ranged, *[server.failing(500)] * 3])
    path = resolve(url + ours * pinned, cache)
    told = [
        f"the sidecar of {url} could not be fetched (127.0.0.1: HTTP 500 Internal Server Error)"
    ]
    assert caplog.messages == told * (harm == "not-fetched")
    sent = server.sent
    if harm == "damaged":
        files.sidecar(path).write_text("{")
    elif harm == "gone":
        files.sidecar(path).unlink()
        if pinned:  # where the record stays, it says that all is there
            path.with_name(f"{path.name}.version").unlink()
    assert "model" in files.read(resolve(url + ours * pinned, cache))
    assert server.sent - sent < 1000
