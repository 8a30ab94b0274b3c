"""What the server refuses, and what the real client makes of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from wandb_server import StandIn
from wandb_server.clients import artifact, mutate, post, start

pytestmark = pytest.mark.process

CLIENT_ID = "c" * 128


def draft(**changed: Any) -> dict[str, Any]:
    """CreateArtifact's input."""
    return {
        **{"entityName": "tester", "projectName": "cl", "digest": "d", "clientID": CLIENT_ID},
        **{"artifactTypeName": "checkpoint", "artifactCollectionName": "ckpt", "aliases": []},
        **changed,
    }


@pytest.mark.parametrize("alias", ["v7", "a/b", "a:b", ""], ids=["version", "/", ":", "empty"])
def test_aliases_that_are_no_names(wandb_server: StandIn, alias: str) -> None:
    named = {"alias": alias, "artifactCollectionName": "ckpt"}
    status, answer = mutate(wandb_server, "createArtifact", **draft(aliases=[named]))
    assert status == 400
    assert alias in answer["errors"][0]["message"]
    assert wandb_server.project("cl").sequences == {}


def test_a_version_for_an_alias_fails_the_artifact(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    with start() as run:
        with pytest.raises(ValueError, match="reserved"):
            run.log_artifact(artifact(tmp_path, b"1"), aliases=["v7"]).wait()
        run.log_artifact(artifact(tmp_path, b"1")).wait()
    logged = wandb.Api().artifact("tester/cl/ckpt:v0")
    logged.aliases.append("v7")
    with pytest.raises(wandb.errors.CommError, match="reserved"):
        logged.save()


@pytest.mark.parametrize("name", ["a/b", "a b", "ä", "", "a" * 129])
def test_collections_that_are_no_names(wandb_server: StandIn, name: str) -> None:
    refused = mutate(wandb_server, "createArtifact", **draft(artifactCollectionName=name))
    assert refused[0] == 400


@pytest.mark.parametrize(
    ("project", "run_id"),
    [("a/b", "r"), ("a%b", "r"), ("a" * 129, "r"), ("cl", "a:b"), ("cl", "a/b"), ("cl", "")],
    ids=["project /", "project %", "long project", "run :", "run /", "no run"],
)
def test_projects_and_runs_that_are_no_names(
    wandb_server: StandIn, project: str, run_id: str
) -> None:
    assert mutate(wandb_server, "upsertBucket", modelName=project, name=run_id)[0] == 400
    assert ("tester", project) not in wandb_server.root.projects or project == "cl"


def test_a_collection_keeps_its_type(wandb_server: StandIn, tmp_path: Path) -> None:
    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1")).wait()
        with pytest.raises(ValueError, match="already exists with type 'checkpoint'"):
            run.log_artifact(artifact(tmp_path, b"2", type="results"))
    status, answer = mutate(wandb_server, "createArtifact", **draft(artifactTypeName="results"))
    assert (status, answer["errors"][0]["message"]) == (
        409,
        "ckpt is of type checkpoint, not results",
    )


@pytest.mark.parametrize("path", ["tester/cl/ckpt:v9", "tester/cl/no:v0", "tester/no/ckpt:v0"])
def test_artifacts_that_are_not_there(wandb_server: StandIn, tmp_path: Path, path: str) -> None:
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1")).wait()
    with pytest.raises(wandb.errors.CommError, match="not found") as caught:
        wandb.Api().artifact(path)
    assert isinstance(caught.value.exc, ValueError)
    assert not wandb.Api().artifact_exists(path)


def test_runs_that_are_not_there(wandb_server: StandIn) -> None:
    import wandb

    start().finish()
    for path in ("tester/cl/no", "tester/no/r1"):
        with pytest.raises(wandb.errors.CommError, match="Could not find run"):
            wandb.Api().run(path).load()
    assert post(wandb_server, "/files/tester/cl/no/file_stream", {})[0] == 404
    create = {"entityName": "tester", "projectName": "cl", "runName": "no", "files": ["a"]}
    assert mutate(wandb_server, "createRunFiles", **create)[0] == 404
    assert mutate(wandb_server, "createArtifact", **draft(runName="no"))[0] == 404


def test_a_wrong_key(wandb_server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with pytest.raises(wandb.errors.CommError, match="not logged in"):
        start()
    assert post(wandb_server, "/files/tester/cl/r1/file_stream", {}, key="x" * 40)[0] == 401


@pytest.mark.parametrize("project", ["cl", "*"], ids=["project", "entity"])
def test_no_permission(wandb_server: StandIn, tmp_path: Path, project: str) -> None:
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1")).wait()
    wandb_server.deny(project=project)
    with pytest.raises(wandb.errors.CommError, match="permission denied"):
        start("r2")
    wandb.teardown()
    with pytest.raises(wandb.errors.CommError, match="permission denied"):
        wandb.Api().artifact("tester/cl/ckpt:v0")
    wandb_server.allow(project=project)
    assert wandb.Api().artifact_exists("tester/cl/ckpt:v0")


def test_an_entity_that_is_not_there(wandb_server: StandIn) -> None:
    import wandb

    with pytest.raises(wandb.errors.CommError, match="entity team not found"):
        start(entity="team")
    wandb.teardown()
    wandb_server.allow("team")
    start(entity="team").finish()
    assert wandb_server.run("cl", "r1", "team").state == "finished"


def test_a_commit_without_the_files(wandb_server: StandIn, tmp_path: Path) -> None:
    """Uploads that are answered well and not kept."""
    with start() as run:
        wandb_server.fault("PUT storage", status=200, times=1)
        with pytest.raises(ValueError, match=r"model\.bin.*never uploaded|no manifest"):
            run.log_artifact(artifact(tmp_path, b"1")).wait()
    assert wandb_server.project("cl").sequences["ckpt"].versions == []


def test_an_upload_that_is_not_what_was_announced(wandb_server: StandIn, tmp_path: Path) -> None:
    """A file that changes between its checksum and its upload."""
    import wandb

    path, gate = tmp_path / "model.bin", threading.Event()
    path.write_bytes(b"as hashed")
    changing = wandb.Artifact("ckpt", "checkpoint")
    changing.add_file(str(path), policy="immutable")
    wandb_server.fault("CreateArtifactFiles", hold=gate)
    with start() as run:
        logged = run.log_artifact(changing)
        wandb_server.wait_for("CreateArtifactFiles")
        path.write_bytes(b"as sent..")
        gate.set()
        with pytest.raises(ValueError, match="failed"):
            logged.wait()
    assert "CommitArtifact" not in wandb_server.log
    assert not list(wandb_server.directory.glob("blob-*"))


def test_metadata_that_is_too_large(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    with start() as run:
        large = artifact(tmp_path, b"1", metadata={"text": "x" * (2 << 20)})
        with pytest.raises(ValueError, match="metadata is too large"):
            run.log_artifact(large).wait()
        run.log_artifact(artifact(tmp_path, b"1")).wait()
    logged = wandb.Api().artifact("tester/cl/ckpt:v0")
    logged.metadata["text"] = "x" * (2 << 20)
    with pytest.raises(wandb.errors.CommError, match="metadata is too large"):
        logged.save()


def test_a_version_with_aliases_is_not_deleted(wandb_server: StandIn, tmp_path: Path) -> None:
    import wandb

    with start() as run:
        run.log_artifact(artifact(tmp_path, b"1"), aliases=["best"]).wait()
    logged = wandb.Api().artifact("tester/cl/ckpt:best")
    with pytest.raises(wandb.errors.CommError, match="has aliases"):
        logged.delete()
    logged.delete(delete_aliases=True)
    assert wandb_server.project("cl").sequences["ckpt"].by_alias == {}


def rows(offset: int, *steps: int) -> dict[str, Any]:
    content = [f'{{"_step": {step}}}' for step in steps]
    return {"files": {"wandb-history.jsonl": {"offset": offset, "content": content}}}


@pytest.mark.parametrize(
    ("body", "held", "problem"),
    [
        (rows(1, 1, 2), [0, 1, 2], ""),
        (rows(2, 2, 3), [0, 1, 2, 3], ""),
        (rows(1, 9), [0, 9], 'row 1 was {"_step": 1} and is overwritten by {"_step": 9}'),
        (rows(4, 4), [0, 1, 4], "rows 2…3 are missing"),
        (rows(2, 0), [0, 1, 0], "step 0 comes after step 1"),
    ],
    ids=["repeated", "next", "overwriting", "gap", "step back"],
)
def test_rows_that_are_lost_are_reported(
    wandb_server: StandIn, body: dict[str, Any], held: list[int], problem: str
) -> None:
    mutate(wandb_server, "upsertBucket", modelName="cl", name="r1")
    stream = "/files/tester/cl/r1/file_stream"
    assert post(wandb_server, stream, rows(0, 0, 1))[0] == 200
    assert post(wandb_server, stream, body)[0] == 200
    assert wandb_server.values("cl", "r1", "_step") == held
    assert problem in "".join(wandb_server.problems)
    assert bool(problem) == bool(wandb_server.problems)
    wandb_server.problems.clear()
