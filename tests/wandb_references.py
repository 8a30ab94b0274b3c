"""What the tests of wandb:// references share: a run that was sent, and how it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, RunFolder, open_mirror
from wandb_server import ENTITY, StandIn

from perdure.errors import UserError
from perdure.io.transfer import DEFAULT_LIMITS, Limits
from perdure.wandb import artifact_download, artifacts
from perdure.wandb.artifacts import Fetched

FIRST, SECOND = "0.pt", "step-15_full.pth"
DOWNLOADS = ("list", SECOND + ".json", SECOND, "list-of-results", "metrics.jsonl")
"""What is downloaded for the second version, in this order."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_download, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(artifacts, "_TIMEOUT", 2)


@pytest.fixture
def run(hurried: StandIn, tmp_path: Path) -> RunFolder:
    """A run that has sent two versions: the end of a task, which is the best, and a later one."""
    folder = RunFolder(tmp_path / "outputs" / "run")
    mirror = open_mirror(folder)
    for at, kind, best in ((10, "task", True), (15, "step", False)):
        folder.write(at, "running")
        mirror.queue.add_checkpoint(folder.checkpoint(at, kind, best))
        # On a busy machine a request may exceed the short limits of this client.
        assert any(mirror.push_upload() for _ in range(10))
    mirror.close(folder.note(15, "interrupted"))
    return folder


def named(alias: str, name: str = "ckpt-r1") -> str:
    return f"wandb://{ENTITY}/{PROJECT}/{name}:{alias}"


def get(address: str, cache: Path, limits: Limits = DEFAULT_LIMITS) -> Fetched:
    return artifacts.fetch(address, cache, limits=limits)


def refused(address: str, cache: Path, limits: Limits = DEFAULT_LIMITS) -> str:
    """The message of the error; the cache stays as it was."""
    before = sorted(cache.rglob("*"))
    with pytest.raises(UserError) as caught:
        get(address, cache, limits)
    assert [p for p in cache.rglob("*") if p.is_file() and p not in before] == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def downloads(server: StandIn) -> int:
    return server.log.count("GET storage")


def publish(name: str, contents: dict[str, bytes], folder: Path, **more: Any) -> None:
    """As somebody would who does not use this package."""
    import wandb

    folder.mkdir()
    artifact = wandb.Artifact(name, type="model", metadata=more.get("metadata"))
    for path, data in contents.items():
        file = folder / path.replace("/", "-")
        file.write_bytes(data)
        artifact.add_file(str(file), name=path)
    for path, uri in more.get("references", {}).items():
        artifact.add_reference(uri, name=path, checksum=False)
    with wandb.init(project=PROJECT, dir=str(folder), reinit="create_new") as made:
        made.log_artifact(artifact).wait()
