"""`wandb_server`: a server for one test, and the client of this process pointed at it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from wandb_server.server import StandIn


@pytest.fixture
def wandb_server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    """For clients in processes of their own, `{**os.environ, **wandb_server.env(home)}`.

    Nothing may have been overwritten or lost at the end; a test that means to do so empties
    `problems`. The client reads its environment once a process, hence the teardowns.
    """
    import wandb

    folder = tmp_path_factory.mktemp("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    wandb.teardown()
    with StandIn(folder / "server") as server:
        for name, value in server.env(folder / "client").items():
            monkeypatch.setenv(name, value)
        yield server
        server.up()
        server.faults.clear()
        wandb.teardown()
    assert server.problems == []
