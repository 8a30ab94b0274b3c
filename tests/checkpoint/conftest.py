"""A web server to fetch checkpoints from, which are fetched without long pauses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint.fetching import DATA
from webserver import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("perdure.checkpoint.remote.cache._PAUSES", (0.01, 0.02))
    monkeypatch.setattr("perdure.checkpoint.remote.references._TIMEOUT", 1.0)
    with serving(Server()) as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    """Of a file that some other project made, on a server that tells its version."""
    server.files["/er.pt"] = DATA
    server.tells["/er.pt"] = {"ETag": '"1"'}
    return server.url("/er.pt")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
