"""Sidecars of checkpoints of ours: fetched with them, and never one without the other."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import pytest
import torch
from checkpoint.fetching import DATA, PINNED, SHA256, get, refused, requests_for
from checkpoint.hostile import prove, rezip, save
from webserver import Server

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.interop.foreign import open_file
from perdure.checkpoint.remote.references import resolve
from perdure.errors import UserError


@pytest.fixture
def ours(server: Server, url: str, tmp_path: Path) -> str:
    """A checkpoint of ours and its sidecar on the server; the pin of it."""
    path = tmp_path / "made" / "er.pt"
    path.parent.mkdir()
    files.write(path, {"model": {"w": torch.arange(50_000.0)}}, {"position": {"step": 3}})
    server.files["/er.pt"] = path.read_bytes()
    server.files["/er.pt.json"] = sidecars.path_of(path).read_bytes()
    return f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("pinned", [False, True], ids=["unpinned", "pinned"])
def test_a_checkpoint_of_ours_can_be_read(
    server: Server, url: str, cache: Path, ours: str, pinned: bool
) -> None:
    for _ in range(2):
        path = resolve(url + ours * pinned, cache)
        assert torch.equal(files.read(path)["model"]["w"], torch.arange(50_000.0))
    assert {f.name.removeprefix(path.name) for f in cache.iterdir()} == {"", ".json", ".version"}
    assert len(requests_for(server, "/er.pt.json")) == 1


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
    server.files["/er.pt.json"] = sidecars.path_of(newer).read_bytes()
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
        b" " * (1 << 20) + b'{"sha256": "%b", "bytes": 1, "format": 1}' % SHA256.encode(),
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
def test_a_missing_sidecar_is_requested_again(
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
    warnings = [
        f"the sidecar of {url} could not be fetched (127.0.0.1: HTTP 500 Internal Server Error)"
    ]
    assert caplog.messages == warnings * (harm == "not-fetched")
    sent = server.sent
    if harm == "damaged":
        sidecars.path_of(path).write_text("{")
    elif harm == "gone":
        sidecars.path_of(path).unlink()
        if pinned:  # where the record stays, it says that all is there
            path.with_name(f"{path.name}.version").unlink()
    assert "model" in files.read(resolve(url + ours * pinned, cache))
    assert server.sent - sent < 1000


@pytest.mark.parametrize("pinned", [False, True], ids=["unpinned", "pinned"])
def test_a_sidecar_that_fits_spares_a_file_no_check(
    server: Server, url: str, cache: Path, tmp_path: Path, pinned: bool
) -> None:
    path = save(tmp_path / "bomb.pt", {"w": torch.zeros(1_000_000)})
    rezip(path, lambda archive, entry, data: archive.writestr(entry.filename, data, ZIP_DEFLATED))
    prove(path)
    server.files["/er.pt"] = path.read_bytes()
    server.files["/er.pt.json"] = sidecars.path_of(path).read_bytes()
    pin = f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" * pinned
    fetched = resolve(url + pin, cache)
    assert sidecars.path_of(fetched).is_file()
    for read in (files.read, open_file):
        with pytest.raises(UserError, match="refused: compressed"):
            read(fetched)


class _Death(BaseException):
    """The end of a process, as far as the disk sees it."""


def _dying_at(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the n-th change of a name on, no change happens."""
    steps = itertools.count()
    rename, unlink = os.replace, Path.unlink

    def replace(*names: Any) -> None:
        if next(steps) >= n:
            raise _Death
        rename(*names)

    def remove(path: Path, missing_ok: bool = False) -> None:
        if next(steps) >= n:
            raise _Death
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "unlink", remove)


@pytest.mark.parametrize("after", ["down", "up"])
def test_a_process_that_dies_between_two_steps_leaves_nothing_that_misleads(
    server: Server, url: str, cache: Path, ours: str, tmp_path: Path, after: str
) -> None:
    newer = tmp_path / "made" / "newer.pt"
    files.write(newer, {"model": 4}, {"position": {"step": 4}})
    old = dict(server.files)
    outcomes = set()
    for n in itertools.count():
        server.files, server.tells["/er.pt"] = dict(old), {"ETag": '"1"'}
        resolve(url, cache / str(n))
        server.files["/er.pt"], server.tells["/er.pt"] = newer.read_bytes(), {"ETag": '"2"'}
        server.files["/er.pt.json"] = sidecars.path_of(newer).read_bytes()
        with pytest.MonkeyPatch.context() as monkeypatch:
            _dying_at(n, monkeypatch)
            try:
                resolve(url, cache / str(n))
                break
            except _Death:
                pass
        server.usual = server.ranged if after == "up" else server.failing(500)
        try:
            outcomes.add(str(files.read(resolve(url, cache / str(n)))["model"])[:1])
        except UserError as error:
            outcomes.add(str(error)[-30:])
        server.usual = server.ranged
        assert files.read(resolve(url, cache / str(n)))["model"] == 4
    assert n > 6
    reason = "HTTP 500 Internal Server Error"
    assert outcomes == ({"4"} if after == "up" else {"{", "4", reason})
