"""Artifacts: versions, aliases, content, lineage, by the real client."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from wandb_server import StandIn
from wandb_server.clients import artifact, mutate, on_machine, start

pytestmark = pytest.mark.process

LOGS = """
import sys, pathlib, wandb
with wandb.init(project="cl", id=sys.argv[1], group="g", config={"seed": 1}) as run:
    for task in range(3):
        pathlib.Path("model.bin").write_bytes(f"{sys.argv[1]} {task}".encode() * 100_000)
        made = wandb.Artifact("ckpt", "checkpoint", metadata={"task": task})
        made.add_file("model.bin")
        run.log_artifact(made, aliases=[f"task-{task}"]).wait()
"""
USES = """
import hashlib, wandb
with wandb.init(project="cl", id="user") as run:
    found = run.use_artifact("ckpt:task-1")
    path = found.download() + "/model.bin"
    print(found.version, hashlib.sha256(open(path, "rb").read()).hexdigest(), found.metadata)
"""


def test_one_machine_logs_and_another_uses(wandb_server: StandIn, tmp_path: Path) -> None:
    import hashlib

    import wandb

    on_machine(wandb_server, tmp_path / "A", LOGS, "maker")
    digest = hashlib.sha256(b"maker 1" * 100_000).hexdigest()
    printed = on_machine(wandb_server, tmp_path / "B", USES)
    assert printed.split(maxsplit=2) == ["v1", digest, "{'task': 1}\n"]
    maker, user = (wandb_server.run("cl", name) for name in ("maker", "user"))
    assert [a.versionIndex for a in maker.outputs] == [0, 1, 2]
    assert [a.versionIndex for a in user.inputs] == [1]
    read = wandb.Api().artifact("tester/cl/ckpt:v1")
    assert [r.id for r in read.used_by()] == ["user"]
    assert read.logged_by().id == "maker"


def test_the_same_content_is_the_same_version(wandb_server: StandIn, tmp_path: Path) -> None:
    with start() as run:
        for content, alias in ((b"1", "best"), (b"2", "x"), (b"1", "final")):
            logged = run.log_artifact(artifact(tmp_path, content), aliases=[alias]).wait()
    assert logged.version == "v0"
    assert wandb_server.log.count("CommitArtifact") == 2
    sequence = wandb_server.project("cl").sequences["ckpt"]
    assert [a.read("model.bin") for a in sequence.versions] == [b"1", b"2"]
    holders = {alias: a.versionIndex for alias, a in sequence.by_alias.items()}
    assert holders == {"best": 0, "x": 1, "final": 0, "latest": 0}


def test_aliases_move_to_what_is_logged_last(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    with start() as run:
        for content in (b"1", b"2"):
            run.log_artifact(artifact(tmp_path, content), aliases=["best"]).wait()
    second, first = list(wandb.Api().artifacts("checkpoint", "tester/cl/ckpt"))
    assert (first.aliases, sorted(second.aliases)) == ([], ["best", "latest"])
    first.aliases.append("best")
    first.metadata["note"] = "better after all"
    first.save()
    sequence = wandb_server.project("cl").sequences["ckpt"]
    assert {k: a.versionIndex for k, a in sequence.by_alias.items()} == {"best": 0, "latest": 1}
    assert wandb.Api().artifact("tester/cl/ckpt:best").metadata == {"note": "better after all"}


def test_latest_needs_no_asking(wandb_server: StandIn) -> None:
    """The client of today asks for it each time."""
    draft = {
        **{"entityName": "tester", "projectName": "cl", "digest": "d", "clientID": "c"},
        **{"artifactTypeName": "checkpoint", "artifactCollectionName": "ckpt"},
    }
    assert mutate(wandb_server, "createArtifact", **draft)[0] == 200
    (made,) = wandb_server.root.artifacts.values()
    (wandb_server.directory / made.manifest_blob).write_text('{"contents": {}}')
    assert mutate(wandb_server, "commitArtifact", artifactID=made.id)[0] == 200
    assert wandb_server.project("cl").sequences["ckpt"].by_alias == {"latest": made}


def test_a_file_that_is_there_is_not_sent_again(wandb_server: StandIn, tmp_path: Path) -> None:
    """Also when another artifact brought it."""
    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1")).wait()
        run.log_artifact(artifact(tmp_path, b"1", name="other")).wait()
    assert (wandb_server.uploads("blob"), wandb_server.uploads("manifest")) == (1, 2)
    assert wandb_server.project("cl").sequences["other"].versions[0].read("model.bin") == b"1"


def test_a_deleted_version_leaves_its_number(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1")).wait()
        wandb.Api().artifact("tester/cl/ckpt:v0").delete(delete_aliases=True)
        assert not wandb.Api().artifact_exists("tester/cl/ckpt:v0")
        logged = run.log_artifact(artifact(tmp_path, b"1")).wait()
    assert logged.version == "v1"


def test_clients_at_once_get_versions_of_their_own(wandb_server: StandIn, tmp_path: Path) -> None:
    names = ("r1", "r2", "r3")
    jobs = [
        threading.Thread(target=on_machine, args=(wandb_server, tmp_path / name, LOGS, name))
        for name in names
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    sequence = wandb_server.project("cl").sequences["ckpt"]
    assert [a.versionIndex for a in sequence.versions] == [*range(9)]
    found = {(a.createdBy.name, a.read("model.bin")[:4]) for a in sequence.versions if a.createdBy}
    assert found == {(name, f"{name} {task}".encode()[:4]) for name in names for task in range(3)}
    assert sequence.by_alias["latest"].versionIndex == 8


def test_the_same_content_at_once_is_one_version(wandb_server: StandIn, tmp_path: Path) -> None:
    gate = threading.Event()
    wandb_server.fault("CommitArtifact", hold=gate)
    with start("r1") as first, start("r2") as second:
        content = os.urandom(1000)
        a = first.log_artifact(artifact(tmp_path, content), aliases=["one"])
        b = second.log_artifact(artifact(tmp_path, content), aliases=["two"])
        wandb_server.wait_for("CommitArtifact", 2)
        gate.set()
        assert (a.wait().version, b.wait().version) == ("v0", "v0")
    sequence = wandb_server.project("cl").sequences["ckpt"]
    assert {k: a.versionIndex for k, a in sequence.by_alias.items()} == {
        "one": 0,
        "two": 0,
        "latest": 0,
    }
