"""Artifacts that somebody made to look like a checkpoint: what their metadata may decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, RunFolder, hurried
from wandb_references import get, impatient, named, publish, refused
from wandb_server import ENTITY, StandIn

from perdure.checkpoint.core import sidecars
from perdure.io.files import digest
from perdure.wandb import artifacts
from perdure.wandb.record import new_id

pytestmark = pytest.mark.process

__all__ = ["hurried", "impatient"]


@pytest.mark.parametrize(
    "key_value",
    [
        pytest.param(("file", "../../x"), id="file-above"),
        pytest.param(("file", ".."), id="file-parent"),
        pytest.param(("file", "/etc/x"), id="file-absolute"),
        pytest.param(("file", "/"), id="file-root"),
        pytest.param(("file", ".tmp-x.pt"), id="file-hidden"),
        pytest.param(("file", "train.log"), id="file-no-checkpoint"),
        pytest.param(("file", "x\x1b[2J.pt"), id="file-escape"),
        pytest.param(("run", "../x"), id="run-above"),
        pytest.param(("run", 3), id="run-number"),
        pytest.param(("run", None), id="run-null"),
        pytest.param(("sha256", "0"), id="sha256-short"),
        pytest.param(("sha256", None), id="sha256-null"),
        pytest.param(("results_sha256", ["x"]), id="results-list"),
        pytest.param(("results_sha256", {"results.json": 3}), id="results-number"),
        pytest.param(("results_sha256", {"../.bashrc": "0" * 64}), id="results-above"),
        pytest.param(("results_sha256", {"code/train.py": "0" * 64}), id="results-code"),
        pytest.param(("results_sha256", {".hydra": "0" * 64}), id="results-hydra"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    hurried: StandIn, tmp_path: Path, cache: Path, key_value: tuple[str, str]
) -> None:
    metadata = {"file": "0.pt", "run": "r1", "sha256": "0" * 64, **dict([key_value])}
    publish("theirs", {"0.pt": b"weights", "x": b"bad"}, tmp_path / "it", metadata=metadata)
    assert "which is not valid" in refused(named("latest", "theirs"), cache)
    assert {p.name for p in tmp_path.iterdir()} <= {"it", "cache"}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        pytest.param({}, "it holds no 0.pt.json", id="no-sidecar"),
        pytest.param({"file": "1.pt"}, "it holds no 1.pt.json", id="another-file"),
    ],
)
def test_what_only_says_that_it_is_ours_is_refused(
    hurried: StandIn, tmp_path: Path, cache: Path, metadata: dict[str, Any], words: str
) -> None:
    claimed = {"file": "0.pt", "run": "r1", "sha256": "0" * 64, **metadata}
    publish("theirs", {"0.pt": b"weights"}, tmp_path / "it", metadata=claimed)
    assert words in refused(named("latest", "theirs"), cache)


@pytest.mark.parametrize(
    "results",
    [
        pytest.param(None, id="none"),
        pytest.param(f"{ENTITY}/other/results-r1:v0", id="another-project"),
        pytest.param(f"other/{PROJECT}/results-r1:v0", id="another-entity"),
        pytest.param(f"{ENTITY}/{PROJECT}/secrets:v0", id="no-results"),
        pytest.param(f"{ENTITY}/{PROJECT}/results-r1:latest", id="no-version"),
        pytest.param(["results-r1:v0"], id="list"),
    ],
)
def test_results_come_from_the_results_of_the_same_project_alone(
    hurried: StandIn, tmp_path: Path, cache: Path, results: Any
) -> None:
    claimed = {"file": "0.pt", "run": "r1", "sha256": "0" * 64}
    claimed |= {"results": results, "results_sha256": {"results.json": "0" * 64}}
    publish("theirs", {"0.pt": b"weights"}, tmp_path / "it", metadata=claimed)
    assert "its results is " in refused(named("latest", "theirs"), cache)


def claiming(tmp_path: Path, name: str, **more: Any) -> None:
    """Somebody's artifact that claims to be a checkpoint of the run r1."""
    path = RunFolder(tmp_path / "run").checkpoint(10, "task")
    contents = {p.name: p.read_bytes() for p in (path, sidecars.path_of(path))}
    claimed = {"file": path.name, "run": "r1", "sha256": digest(path), **more}
    publish(name, contents, tmp_path / "it", metadata=claimed)


@pytest.mark.parametrize("folder", ["../../x", "/etc", "20261122-072200", 3, None, ["x"]], ids=str)
def test_the_metadata_chooses_neither_the_folder_nor_the_run(
    hurried: StandIn, tmp_path: Path, cache: Path, folder: Any
) -> None:
    claiming(tmp_path, "theirs", folder=folder)
    found = get(named("latest", "theirs"), cache)
    assert (found.run_id, found.place) == (None, "theirs")


def test_results_that_are_promised_and_not_there_are_missed(
    hurried: StandIn, tmp_path: Path, cache: Path
) -> None:
    results = f"{ENTITY}/{PROJECT}/results-r1:v0"
    claiming(tmp_path, "theirs", results=results, results_sha256={"results.json": "0" * 64})
    assert "W&B did not answer: " in refused(named("latest", "theirs"), cache)


def test_a_huge_sidecar_is_not_fetched(hurried: StandIn, tmp_path: Path, cache: Path) -> None:
    claimed = {"file": "0.pt", "run": "r1", "sha256": "0" * 64}
    contents = {"0.pt": b"weights", "0.pt.json": b" " * (sidecars.LIMIT + 1)}
    publish("theirs", contents, tmp_path / "it", metadata=claimed)
    before = hurried.log.count("GET storage")
    assert "0.pt.json has more than 1,048,576 bytes" in refused(named("latest", "theirs"), cache)
    assert hurried.log.count("GET storage") <= before + 1  # the list of files


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("ckpt-20261122-072200-3f9a", "20261122-072200"),
        ("ckpt-20261122-072200-1234", "20261122-072200"),
        ("ckpt-20261122-072200-3-3f9a", "20261122-072200/3"),
        ("ckpt-20261122-072200-12-0000", "20261122-072200/12"),
        ("ckpt-20261122-072200-small.1-3f9a", "20261122-072200/small.1"),
        ("ckpt-20261122-072200-..-3f9a", "20261122-072200-..-3f9a"),
        ("ckpt-r1", "r1"),
        ("mine", "mine"),
        ("ckpt-..", "run"),
        ("..", "run"),
        ("ckpt-.ssh", "ssh"),
        ("a b\\c\x1b\n", "a-b-c--"),
        ("x" * 500, "x" * 100),
    ],
)
def test_the_name_says_where_a_run_lies(name: str, place: str) -> None:
    assert artifacts.place_of(name) == place


def test_every_run_of_ours_is_found_where_it_lies() -> None:
    for job in (None, "0", "17"):
        place = "/".join(filter(None, ("20261122-072200", job)))
        for _ in range(50):
            assert artifacts.place_of(f"ckpt-{new_id('20261122-072200', job)}") == place
