"""A run folder that somebody else made: nothing outside it is sent, nothing in it is executed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrored import PIXEL, PROJECT, RunFolder, hurried, lines, open_mirror
from wandb_server import StandIn

from perdure.checkpoint.core import sidecars
from perdure.errors import UserError
from perdure.wandb import record as records
from perdure.wandb.record import Record
from perdure.wandb.sync import sync
from perdure.wandb.upload_queue import UploadQueue

pytestmark = pytest.mark.process

__all__ = ["hurried"]

SECRET = "the secret of this machine"
RESULTS = ("results.json", "metrics.jsonl", "accuracy.csv")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run of one task, and a secret beside the folder of all runs."""
    (tmp_path / "secret").write_text(SECRET)
    made = RunFolder(tmp_path / "outputs" / "20261122-072200")
    made.checkpoint(10, "task", best=True)
    made.write(10)
    return made


def secret(folder: RunFolder) -> Path:
    return folder.path.parents[1] / "secret"


def require_unsent(server: StandIn) -> None:
    """The server has not got the secret, in any file or any request."""
    held = [p for p in server.directory.rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in path.read_bytes() for path in held)


def sent(folder: RunFolder) -> str:
    """The messages to the user: that all is sent, or why not."""
    messages: list[str] = []
    try:
        sync(folder.path, project=PROJECT, notify=messages.append)
    except UserError as error:
        messages.append(str(error))
    assert not any("\n" in one for one in messages)
    return " ".join(messages)


# --- files that are links ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy.csv", "report.html", "train.log", "code", "extra.txt"])
def test_a_link_among_the_results_is_not_followed(
    hurried: StandIn, folder: RunFolder, name: str
) -> None:
    (folder.path / name).symlink_to(secret(folder))
    assert "all is at" in sent(folder)
    require_unsent(hurried)


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json"])
def test_a_history_that_is_a_link_is_refused(
    hurried: StandIn, folder: RunFolder, name: str
) -> None:
    kept = folder.path / name
    outside = secret(folder).with_name(name)
    os.replace(kept, outside)
    kept.symlink_to(outside)
    assert "all is at" not in sent(folder)
    assert "metrics.jsonl cannot be read" in sent(folder) or "no run's folder" in sent(folder)


def test_a_picture_that_is_a_link_is_not_shown(hurried: StandIn, folder: RunFolder) -> None:
    picture = secret(folder).with_name("picture.png")
    picture.write_bytes(PIXEL + SECRET.encode())
    (folder.path / "figures").mkdir()
    (folder.path / "figures" / "accuracy_matrix.png").symlink_to(picture)
    assert "all is at" in sent(folder)
    require_unsent(hurried)


@pytest.mark.parametrize("which", ["checkpoint", "sidecar", "folder"])
def test_a_checkpoint_that_is_a_link_is_not_kept(
    hurried: StandIn, folder: RunFolder, which: str
) -> None:
    path = folder.path / "checkpoints" / "0.pt"
    moved = {"checkpoint": path, "sidecar": sidecars.path_of(path), "folder": path.parent}[which]
    outside = secret(folder).with_name("elsewhere")
    os.replace(moved, outside)
    moved.symlink_to(outside)
    with pytest.raises(OSError, match="link"):
        UploadQueue(folder.path).add_checkpoint(path)
    assert not (folder.path / "upload_queue").exists()
    sent(folder)
    held = [name for project in hurried.root.projects.values() for name in project.sequences]
    assert not any(name.startswith("ckpt-") for name in held)


@pytest.mark.parametrize("target", ["secret", ".", "nowhere"])
def test_an_upload_queue_that_is_a_link_is_not_used(folder: RunFolder, target: str) -> None:
    outside = secret(folder).parent
    before = sorted(outside.rglob("*"))
    (folder.path / "upload_queue").symlink_to(outside / target)
    queue = UploadQueue(folder.path)
    assert queue.pending() == []
    with pytest.raises(OSError, match="link"):
        queue.add_results()
    assert [p for p in sorted(outside.rglob("*")) if p.name != "upload_queue"] == before


@pytest.mark.parametrize("link", ["outbox", "upload_queue"])
def test_uploads_of_an_earlier_version_are_not_moved_through_a_link(
    folder: RunFolder, link: str
) -> None:
    outside = secret(folder).with_name("elsewhere")
    queued = {"outbox": outside, "upload_queue": folder.path / "outbox"}[link] / "000001"
    queued.mkdir(parents=True)
    label = {"checkpoint": None, "aliases": ["latest", "final"], "about": {}}
    (queued / "parcel.json").write_text(json.dumps(label))
    outside.mkdir(exist_ok=True)
    (folder.path / link).symlink_to(outside)
    assert UploadQueue(folder.path).pending() == []
    assert queued.is_dir()


# --- pending uploads ------------------------------------------------------------------------------


@pytest.fixture
def upload(folder: RunFolder) -> Path:
    """A valid pending upload."""
    queue = UploadQueue(folder.path)
    queue.add_checkpoint(folder.path / "checkpoints" / "0.pt")
    (pending,) = queue.pending()
    return pending.folder


def label(upload: Path, **changes: Any) -> None:
    known = json.loads((upload / "upload.json").read_text())
    (upload / "upload.json").write_text(json.dumps({**known, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"checkpoint": "../../checkpoints/0.pt"}, id="above"),
        pytest.param({"checkpoint": "/etc/passwd"}, id="absolute"),
        pytest.param({"checkpoint": "/etc/x.pt"}, id="absolute-checkpoint"),
        pytest.param({"checkpoint": ".."}, id="parent"),
        pytest.param({"checkpoint": ""}, id="empty"),
        pytest.param({"checkpoint": "upload.json"}, id="label"),
        pytest.param({"checkpoint": "gone.pt"}, id="not-there"),
        pytest.param({"checkpoint": 3}, id="number"),
        pytest.param({"checkpoint": ["0.pt"]}, id="list"),
        pytest.param({"aliases": "latest"}, id="aliases-text"),
        pytest.param({"aliases": [1]}, id="aliases-number"),
        pytest.param({"aliases": ["a/b"]}, id="aliases-slash"),
        pytest.param({"aliases": ["a\x1b"]}, id="aliases-escape"),
        pytest.param({"metadata": {}}, id="metadata-empty"),
        pytest.param({"metadata": []}, id="metadata-list"),
        pytest.param({"metadata": {"sha256": "../x", "format": 1, "bytes": 1}}, id="metadata-odd"),
        pytest.param({"later": 1}, id="unknown-key"),
    ],
)
def test_an_invalid_upload_is_not_pending_and_reported_once(
    folder: RunFolder, upload: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    label(upload, **changes)
    queue = UploadQueue(folder.path)
    with caplog.at_level(logging.WARNING, "perdure"):
        assert queue.pending() == queue.pending() == []
    assert len(caplog.messages) == 1
    assert "not sent" in caplog.messages[0]


def to_the_secret(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parents[4] / "secret")


@pytest.mark.parametrize("name", ["0.pt", "0.pt.json", "upload.json"])
def test_a_link_in_an_upload_makes_it_none(folder: RunFolder, upload: Path, name: str) -> None:
    to_the_secret(upload / name)
    assert UploadQueue(folder.path).pending() == []


@pytest.mark.parametrize("name", [*RESULTS, "recorders.json", "train.log", "id_rsa", ".env"])
def test_a_link_or_a_strange_file_beside_it_is_left_out(
    hurried: StandIn, folder: RunFolder, upload: Path, name: str
) -> None:
    to_the_secret(upload / name)
    (upload / "strange.txt").write_text(SECRET)
    (waiting,) = UploadQueue(folder.path).pending()
    assert not {name, "strange.txt"} & {p.name for p in waiting.results}
    assert "all is at" in sent(folder)
    require_unsent(hurried)
    assert secret(folder).read_text() == SECRET


def test_an_upload_that_is_a_link_is_none(folder: RunFolder, upload: Path) -> None:
    outside = secret(folder).with_name("upload")
    os.replace(upload, outside)
    upload.symlink_to(outside)
    assert UploadQueue(folder.path).pending() == []


def test_an_upload_whose_checkpoint_is_another_is_not_sent(
    hurried: StandIn, folder: RunFolder, upload: Path
) -> None:
    (upload / "0.pt").unlink()
    (upload / "0.pt").write_bytes(b"PK\x03\x04" + SECRET.encode())
    messages: list[str] = []
    mirror = open_mirror(folder, messages)
    assert mirror.push_upload()
    mirror.close(folder.note(10))
    assert "it is not sent" in messages[0]
    require_unsent(hurried)
    assert not list(mirror.queue.pending())


# --- wandb.json -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../x"},
        {"id": ""},
        {"id": 3},
        {"id": "a" * 200},
        {"id": "a\x1b[2J"},
        {"project": "a/b"},
        {"project": "a\n"},
        {"project": None},
        {"entity": "a:b"},
        {"entity": ["team"]},
        {"name": "x\x1b]0;title\x07"},
        {"name": "\u202egpj.exe"},
        {"group": {"a": 1}},
        {"tags": "a"},
        {"tags": [1]},
        {"config": []},
        {"inputs": ["../x"]},
        {"inputs": "team/cl/x:v0"},
        {"url": "javascript:alert(1)"},
        {"url": "file:///etc/passwd"},
        {"url": "https://x \x1b[2J"},
        {"url": 3},
        {"sent": {}},
        {"sent": [{"sha256": "ab"}]},
        {"sent": [{"sha256": "ab" * 32, "artifact": "x", "aliases": []}]},
        {"sent": [{"sha256": "ab" * 32, "artifact": "a/b/c:v0", "aliases": [1]}]},
        {"results_sha256": "ab"},
        {"results_sha256": 1},
    ],
    ids=repr,
)
def test_an_invalid_record_is_ignored_and_reported(
    tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / records.NAME).write_text(json.dumps({"id": "r1", "project": "cl", **changes}))
    with caplog.at_level(logging.WARNING, "perdure"):
        assert records.load(tmp_path) is None
    (message,) = caplog.messages
    assert "is ignored" in message
    assert message.isprintable()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(Path.mkdir, id="folder"),
        pytest.param(lambda p: p.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda p: p.write_text("[" * 100_000), id="deep"),
        pytest.param(lambda p: (p.touch(), os.truncate(p, 2**30)), id="a-gigabyte"),
    ],
)
def test_what_is_no_file_of_facts_counts_for_nothing(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / records.NAME)
    assert records.load(tmp_path) is None


def test_numbers_that_json_lacks_do_not_lose_the_record(tmp_path: Path) -> None:
    config = {"clip": float("inf"), "x": [float("nan")], "lr": 0.1}
    Record("r1", "cl", notes="two\nlines", config=config).save(tmp_path)
    read = records.load(tmp_path)
    assert read is not None
    assert read.config == {"clip": "inf", "x": ["nan"], "lr": 0.1}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100) | st.sampled_from([b'{"id":"i","project":"p"}', b"{}", b"[]"]))
def test_no_bytes_make_the_record_raise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / records.NAME).write_bytes(data)
    records.load(folder)


def test_a_link_in_the_place_of_the_record_is_not_written_to(folder: RunFolder) -> None:
    (folder.path / records.NAME).unlink(missing_ok=True)
    (folder.path / records.NAME).symlink_to(secret(folder))
    Record("r1", "cl").save(folder.path)
    assert secret(folder).read_text() == SECRET
    assert records.load(folder.path) == Record("r1", "cl")


# --- rows and results -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        [],
        "step",
        3,
        {"kind": ["step"]},
        {"kind": "step"},
        {"kind": "step", "global_step": "1", "loss": 1, "lr": 1, "clock": {}},
        {"kind": "step", "global_step": 99, "loss": "x", "lr": 1, "clock": {}},
        {"kind": "step", "global_step": 99, "loss": {"_type": "file"}, "lr": 1, "clock": {}},
        {"kind": "step", "global_step": 99, "loss": 1, "lr": 1, "clock": []},
        {"kind": "evaluation", "global_step": 99, "accuracy": [1], "clock": {}},
        {"kind": "task", "global_step": 99, "average_accuracy": [1], "clock": {}},
    ],
    ids=repr,
)
def test_a_line_that_is_no_measurement_is_reported(
    hurried: StandIn, folder: RunFolder, line: Any
) -> None:
    folder.log([*lines(10), line])
    assert "metrics.jsonl is damaged" in sent(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"timestamp": "../../x"},
        {"timestamp": 3},
        {"status": "x\x1b"},
        {"status": None},
        {"accuracy_matrix": [1]},
        {"accuracy_matrix": {"class_il": 1}},
        {"accuracy_matrix": {"class_il": [1]}},
        {"accuracy_matrix": {"class_il": [["x"]]}},
        {"average_accuracy": [1]},
        {"average_accuracy": {"class_il": "x"}},
        {"seconds": 3},
        {"global_step": "x"},
        {"global_step": -1},
        {"buffer_size": "500"},
        {"seed": [0]},
        {"environment": "x"},
    ],
    ids=repr,
)
def test_results_that_no_run_writes_are_reported(
    hurried: StandIn, folder: RunFolder, changes: dict[str, Any]
) -> None:
    known = json.loads((folder.path / "results.json").read_text())
    (folder.path / "results.json").write_text(json.dumps({**known, **changes}))
    message = sent(folder)
    assert "results.json" in message
    assert hurried.log == []


# --- configurations ---------------------------------------------------------------------------


def test_nothing_of_the_environment_reaches_wandb(
    hurried: StandIn, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    (folder.path / ".hydra").mkdir()
    (folder.path / ".hydra" / "config.yaml").write_text(
        "a: ${oc.env:SECRET_TOKEN}\nb: ${oc.decode:${oc.env:SECRET_TOKEN}}\nc: ${a}\n"
        "seed: 3\ndataset: {seed: '${seed}'}\n"
    )
    assert "all is at" in sent(folder)
    record = records.load(folder.path)
    assert record is not None
    assert record.config["a"] == record.config["c"] == "${oc.env:SECRET_TOKEN}"
    assert record.config["dataset/seed"] == 3
    require_unsent(hurried)
    assert not any(SECRET.encode() in p.read_bytes() for p in folder.path.rglob("*") if p.is_file())
