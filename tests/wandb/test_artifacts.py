"""wandb:// references: what arrives is what was sent, or nothing does."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, RunFolder, hurried
from wandb_references import (
    DOWNLOADS,
    FIRST,
    SECOND,
    downloads,
    get,
    impatient,
    named,
    publish,
    refused,
    run,
)
from wandb_server import ENTITY, Fault, StandIn
from wandb_server.artifacts import blob_of

from perdure.checkpoint.core import format as files
from perdure.checkpoint.remote.references import resolve
from perdure.errors import UserError
from perdure.io.files import digest
from perdure.wandb import artifacts
from perdure.wandb.artifacts import Fetched

pytestmark = pytest.mark.process

__all__ = ["hurried", "impatient", "run"]

# --- what a reference names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "version", "file"),
    [
        pytest.param("latest", 1, SECOND, id="latest"),
        pytest.param("best", 0, FIRST, id="best"),
        pytest.param("task-0", 0, FIRST, id="task"),
        pytest.param("v0", 0, FIRST, id="v0"),
        pytest.param("v1", 1, SECOND, id="v1"),
    ],
)
def test_a_version_arrives_by_its_names(
    run: RunFolder, cache: Path, alias: str, version: int, file: str
) -> None:
    found = get(named(alias), cache)
    assert found.path.read_bytes() == (run.path / "checkpoints" / file).read_bytes()
    assert files.verify(found.path)["sha256"] == digest(found.path)
    assert found.artifact == f"{ENTITY}/{PROJECT}/ckpt-r1:v{version}"
    assert found.pinned == named(f"v{version}")
    assert found.newest is (version == 1)
    assert (found.run_id, found.place) == ("r1", "r1")


def test_a_version_arrives_by_the_digest_of_wandb_and_by_that_of_its_file(
    hurried: StandIn, run: RunFolder, cache: Path
) -> None:
    first = hurried.project(PROJECT).sequences["ckpt-r1"].versions[0]
    sha256 = digest(run.path / "checkpoints" / FIRST)
    for alias in (first.digest, sha256):
        assert get(named(alias), cache).artifact.endswith(":v0")
    assert "no such version" in refused(named("0" * 64), cache)


def test_the_results_of_that_moment_are_beside_it(run: RunFolder, cache: Path) -> None:
    folder = get(named("task-0"), cache).path.parent.parent
    assert {p.name for p in folder.iterdir()} == {
        "checkpoints",
        "results.json",
        "metrics.jsonl",
        "recorders.json",
    }
    assert json.loads((folder / "results.json").read_text())["global_step"] == 10
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 12


def test_what_is_there_is_not_fetched_again(hurried: StandIn, run: RunFolder, cache: Path) -> None:
    first = get(named("latest"), cache)
    before = downloads(hurried)
    assert get(named("v1"), cache) == first
    assert downloads(hurried) == before > 0


def test_ranks_that_want_the_same_fetch_it_once(
    hurried: StandIn, run: RunFolder, cache: Path, tmp_path: Path
) -> None:
    before = downloads(hurried)
    get(named("latest"), tmp_path / "alone")
    once, found = downloads(hurried) - before, list[Fetched]()
    go = threading.Event()
    hurried.fault("GET storage", hold=go)
    ranks = [
        threading.Thread(target=lambda: found.append(artifacts.fetch(named("latest"), cache)))
        for _ in range(3)
    ]
    n_requests = len(hurried.log)
    for rank in ranks:
        rank.start()
    # Each asks for the version before it looks whether it is there.
    hurried.wait_for("ArtifactMembershipByName", 3, since=n_requests)
    hurried.wait_for("GET storage", since=n_requests)
    go.set()
    for rank in ranks:
        rank.join()
    assert downloads(hurried) == before + 2 * once
    assert found == [found[0]] * 3
    assert files.verify(found[0].path)
    assert sorted(p.name for p in found[0].path.parent.parent.parent.iterdir()) == [
        found[0].path.parent.parent.name
    ]


@pytest.mark.parametrize("what", ["damaged", "lost-results"])
def test_what_is_not_as_it_was_is_fetched_again(run: RunFolder, cache: Path, what: str) -> None:
    path = get(named("latest"), cache).path
    if what == "damaged":
        path.write_bytes(b"x" * path.stat().st_size)
    else:
        (path.parent.parent / "metrics.jsonl").unlink()
    again = get(named("latest"), cache)
    assert again.path == path
    assert files.verify(path)
    assert (path.parent.parent / "metrics.jsonl").is_file()


def test_a_pin_must_hold(run: RunFolder, cache: Path) -> None:
    good = digest(run.path / "checkpoints" / SECOND)
    schemes = {"wandb": artifacts.scheme(lambda fetched: None)}
    assert digest(resolve(f"{named('latest')}#sha256={good}", cache, schemes=schemes)) == good
    with pytest.raises(UserError, match="not the pinned"):
        resolve(f"{named('latest')}#sha256={'0' * 64}", cache, schemes=schemes)


# --- what cannot be had ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param(named("gone"), "ckpt-r1 has v1 (latest), v0 (best, task-0)", id="alias"),
        pytest.param(named("v7"), "ckpt-r1 has v1 (latest), v0 (best, task-0)", id="version"),
        pytest.param(named("latest", "none"), "there is no artifact of that name", id="artifact"),
        pytest.param("wandb://tester/none/a:latest", "there is no artifact", id="project"),
        pytest.param("wandb://tester/cl/ckpt-r1", "must be wandb://entity", id="no-alias"),
        pytest.param("wandb://cl/ckpt-r1:latest", "must be wandb://entity", id="no-entity"),
        pytest.param("wandb://a/b/c/d:latest", "must be wandb://entity", id="too-long"),
    ],
)
def test_what_is_not_there_is_reported(
    run: RunFolder, cache: Path, address: str, words: str
) -> None:
    assert words in refused(address, cache)


def test_no_permission_is_reported(hurried: StandIn, run: RunFolder, cache: Path) -> None:
    hurried.deny()
    assert "the API key has no permission there" in refused(named("latest"), cache)


def test_no_key_is_reported(
    hurried: StandIn, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert "no API key is configured" in refused(named("latest"), cache)
    assert hurried.log == []


def test_a_server_that_is_down_is_reported_and_called_again(
    hurried: StandIn, run: RunFolder, cache: Path
) -> None:
    hurried.down()
    assert "W&B did not answer: the server does not answer" in refused(named("latest"), cache)
    hurried.up()
    assert get(named("latest"), cache).newest


@pytest.mark.parametrize(
    ("nth", "fault"),
    [
        *(pytest.param(n, {"corrupt": True}, id=f"{d}-corrupt") for n, d in enumerate(DOWNLOADS)),
        pytest.param(2, {"cut": 7}, id="cut"),
        pytest.param(2, {"status": 404}, id="lost"),
    ],
)
def test_a_bad_download_is_tried_again(
    hurried: StandIn,
    run: RunFolder,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
    fault: dict[str, Any],
) -> None:
    meets, before = hurried.arrived, downloads(hurried)

    def arrived(name: str) -> Fault:
        usual = meets(name)
        reached = name == "GET storage" and downloads(hurried) == before + nth + 1
        return Fault(**fault) if reached else usual

    monkeypatch.setattr(hurried, "arrived", arrived)
    path = get(named("latest"), cache).path
    assert path.read_bytes() == (run.path / "checkpoints" / SECOND).read_bytes()
    assert files.verify(path)
    lines = (path.parent.parent / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["global_step"] for line in lines] == [*range(1, 11), 10, 10, *LATER]


LATER = range(11, 16)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param({"corrupt": True}, "could not be fetched", id="corrupt"),
        pytest.param({"cut": 7}, "could not be fetched", id="cut"),
        pytest.param({"status": 403}, "the API key has no permission there", id="denied"),
    ],
)
def test_what_is_never_good_is_refused_and_leaves_nothing(
    hurried: StandIn, run: RunFolder, cache: Path, fault: dict[str, Any], words: str
) -> None:
    hurried.fault("GET storage", **fault)
    assert words in refused(named("latest"), cache)
    hurried.faults.clear()
    assert files.verify(get(named("latest"), cache).path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(f"{SECOND}.json", "it is not that of the checkpoint", id="sidecar"),
        pytest.param(SECOND, "its SHA-256 is ", id="checkpoint"),
        pytest.param("results.json", "its SHA-256 is ", id="results"),
    ],
)
def test_bytes_that_changed_on_the_server_are_refused(
    hurried: StandIn, run: RunFolder, cache: Path, name: str, words: str
) -> None:
    kind = "results" if name == "results.json" else "ckpt"
    stored = hurried.project(PROJECT).sequences[f"{kind}-r1"].versions[-1]
    blob = stored.blobs.path(blob_of(stored.entries[name]))
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert f"{name} could not be fetched: {words}" in refused(named("latest"), cache)


# --- what others made -----------------------------------------------------------------------------


def test_the_one_weights_file_of_a_foreign_artifact_is_meant(
    hurried: StandIn, tmp_path: Path, cache: Path
) -> None:
    publish("theirs", {"deep/net.pth": b"weights", "README.md": b"words"}, tmp_path / "it")
    found = get(named("latest", "theirs"), cache)
    assert (found.path.name, found.path.read_bytes()) == ("net.pth", b"weights")
    assert (found.newest, found.run_id, found.place) == (True, None, None)
    before = downloads(hurried)
    assert get(named("v0", "theirs"), cache).path == found.path
    assert downloads(hurried) == before + 1  # the list of files


def test_of_several_weights_files_one_is_chosen(
    hurried: StandIn, tmp_path: Path, cache: Path
) -> None:
    publish("theirs", {"a/net.pth": b"first", "b/net.pth": b"second!"}, tmp_path / "it")
    message = refused(named("latest", "theirs"), cache)
    assert "choose one of its files" in message
    assert "a/net.pth, b/net.pth" in message
    for path, data in (("a/net.pth", b"first"), ("b/net.pth", b"second!"), ("a/net.pth", b"first")):
        assert get(named(f"latest/{path}", "theirs"), cache).path.read_bytes() == data
    assert "choose one of its files" in refused(named("latest/c.pth", "theirs"), cache)


def test_a_reference_is_no_file(hurried: StandIn, tmp_path: Path, cache: Path) -> None:
    publish("theirs", {}, tmp_path / "it", references={"net.pth": "https://example.org/net.pth"})
    message = refused(named("latest", "theirs"), cache)
    assert "net.pth is a mere reference to https://example.org/net.pth" in message


def test_an_artifact_without_files_has_nothing_to_choose(
    hurried: StandIn, tmp_path: Path, cache: Path
) -> None:
    publish("theirs", {}, tmp_path / "it")
    assert "holds no file" in refused(named("latest", "theirs"), cache)
