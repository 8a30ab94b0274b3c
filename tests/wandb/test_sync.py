"""Whatever a folder holds and W&B lacks is sent, once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, RunFolder, hurried, lines, open_mirror, orders
from omegaconf import OmegaConf
from wandb_server import ENTITY, StandIn

import perdure
from perdure.checkpoint.core.lock import RunLock
from perdure.errors import UserError
from perdure.io.files import digest
from perdure.wandb import record as records
from perdure.wandb.record import Record
from perdure.wandb.rows import ORDER, order
from perdure.wandb.sync import sync
from perdure.wandb.upload_queue import UploadQueue

pytestmark = pytest.mark.process

__all__ = ["hurried"]

TIMESTAMP = "20261122-072200"
END = order("end", 20)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A finished run of two tasks, which W&B knows nothing of."""
    made = RunFolder(tmp_path / "outputs" / TIMESTAMP)
    for at in (10, 20):
        made.checkpoint(at, "task", best=at == 10)
    made.write(20)
    return made


def send(folder: RunFolder, **options: Any) -> Record:
    messages: list[str] = []
    url = sync(folder.path, notify=messages.append, **options)
    record = records.load(folder.path)
    assert record is not None
    assert record.url == url
    assert len(messages) == 1
    assert messages[0].endswith(f"all is at {url}")
    return record


def arrived(server: StandIn, record: Record) -> list[Any]:
    return server.values(record.project, record.id, ORDER)


def aliases(server: StandIn, record: Record, kind: str = "ckpt") -> dict[str, str]:
    """Alias → the SHA-256 of the file that it names."""
    held = server.project(record.project).sequences[f"{kind}-{record.id}"].by_alias
    return {alias: json.loads(a.metadata)["sha256"] for alias, a in held.items()}


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        sync(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_that_was_never_tracked_is_sent_whole(hurried: StandIn, folder: RunFolder) -> None:
    config = perdure.compose("model=er", "buffer.size=500", f"timestamp={TIMESTAMP}")
    (folder.path / ".hydra").mkdir()
    OmegaConf.save(config, folder.path / ".hydra" / "config.yaml")
    record = send(folder)
    assert (record.entity, record.project) == (ENTITY, "perdure")
    assert record.id.startswith(f"{TIMESTAMP}-")
    assert arrived(hurried, record) == [*orders(20), END]
    tasks = {n: digest(folder.path / "checkpoints" / f"{n}.pt") for n in (0, 1)}
    known = {"task-0": tasks[0], "best": tasks[0], "task-1": tasks[1], "latest": tasks[1]}
    assert aliases(hurried, record) == known
    run = hurried.run("perdure", record.id)
    assert (run.state, run.displayName, run.group) == ("finished", "er_seq-mnist_500_s0", None)
    values = run.config_values()
    assert (values["buffer/size"], values["timestamp"]) == (500, TIMESTAMP)
    assert values["buffer_size"] == 500
    assert set(aliases(hurried, record, "results")) == {"latest", "final"}


def test_what_is_there_is_not_sent_again(hurried: StandIn, folder: RunFolder) -> None:
    first = send(folder)
    before, names = len(hurried.log), aliases(hurried, first)
    assert send(folder) == first
    assert not {"CreateArtifact", "CommitArtifact"} & set(hurried.log[before:])
    assert arrived(hurried, first) == [*orders(20), END]
    assert aliases(hurried, first) == names
    assert not (folder.path / "upload_queue").exists()


def test_a_run_that_was_offline_goes_where_it_was_meant_to(
    hurried: StandIn, folder: RunFolder
) -> None:
    Record("r1", PROJECT, name="mine", config={"seed": 0}).save(folder.path)
    record = send(folder)
    assert (record.id, record.project, record.entity) == ("r1", PROJECT, ENTITY)
    assert hurried.run(PROJECT, "r1").displayName == "mine"
    assert arrived(hurried, record) == [*orders(20), END]


def test_a_run_that_wandb_does_not_know_yet_goes_where_one_says_now(
    hurried: StandIn, folder: RunFolder
) -> None:
    hurried.allow("team")
    Record("r1", PROJECT).save(folder.path)
    record = send(folder, project="other", entity="team")
    assert hurried.run("other", "r1", entity="team").state == "finished"
    assert (record.project, record.entity) == ("other", "team")


def test_the_job_of_a_sweep_stays_in_its_group(hurried: StandIn, tmp_path: Path) -> None:
    job = RunFolder(tmp_path / TIMESTAMP / "3")
    job.write(20)
    record = send(job)
    assert record.id.startswith(f"{TIMESTAMP}-3-")
    assert hurried.run("perdure", record.id).group == TIMESTAMP


def test_what_was_partly_sent_is_completed(hurried: StandIn, folder: RunFolder) -> None:
    folder.log(lines(12))
    killed = open_mirror(folder)
    killed.push_rows()
    killed.queue.add_checkpoint(folder.path / "checkpoints" / "0.pt")
    assert killed.push_upload()
    killed.queue.add_checkpoint(folder.path / "checkpoints" / "1.pt")
    killed.close(folder.note(12, "running"))
    folder.write(20)
    record = send(folder)
    assert record.id == "r1"
    assert arrived(hurried, record) == [*orders(20), END]
    held = hurried.project(PROJECT).sequences["ckpt-r1"]
    assert {a: v.versionIndex for a, v in held.by_alias.items()} == {
        "task-0": 0,
        "best": 0,
        "task-1": 1,
        "latest": 1,
    }


@pytest.mark.parametrize("packed", [False, True], ids=["lost", "packed-by-a-sync-that-was-killed"])
def test_latest_is_the_furthest_whatever_is_sent_last(
    hurried: StandIn, folder: RunFolder, packed: bool
) -> None:
    mirror = open_mirror(folder)
    last = folder.path / "checkpoints" / "1.pt"
    mirror.queue.add_checkpoint(last)
    assert mirror.push_upload()
    mirror.close(folder.note(20))
    if packed:
        mirror.queue.add_checkpoint(last.with_name("0.pt"))
    record = send(folder)
    assert aliases(hurried, record)["latest"] == aliases(hurried, record)["task-1"] == digest(last)
    assert len(hurried.project(PROJECT).sequences["ckpt-r1"].versions) == 2


def test_of_the_rolling_files_only_the_newest_is_sent(hurried: StandIn, folder: RunFolder) -> None:
    for at in (21, 23):
        folder.checkpoint(at)
    best = folder.checkpoint(22, "epoch", best=True)
    folder.write(23, "failed")
    record = send(folder)
    versions = hurried.project("perdure").sequences[f"ckpt-{record.id}"].versions
    assert {json.loads(v.metadata)["file"] for v in versions} == {
        "0.pt",
        "1.pt",
        best.name,
        "step-23_full.pth",
    }
    assert hurried.run("perdure", record.id).state == "failed"
    assert END not in arrived(hurried, record)


def test_metrics_alone_are_sent_when_so_wanted(hurried: StandIn, folder: RunFolder) -> None:
    record = send(folder, artifacts=False)
    assert arrived(hurried, record) == [*orders(20), END]
    assert f"ckpt-{record.id}" not in hurried.project("perdure").sequences
    assert aliases(hurried, send(folder))["latest"]


def test_a_run_that_is_still_training_is_refused(hurried: StandIn, folder: RunFolder) -> None:
    running = RunLock(folder.path)
    running.acquire()
    assert "another run writes there" in refused(folder.path)
    running.release()
    assert hurried.log == []
    assert records.load(folder.path) is None


def test_a_damaged_history_is_reported(hurried: StandIn, folder: RunFolder) -> None:
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st\n')
    assert refused(folder.path).endswith("not sent: metrics.jsonl is damaged (a line is no JSON)")


def test_a_folder_that_may_not_be_written_is_reported(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: RunLock, patience: float = 0.0) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder.path / ".lock"))

    monkeypatch.setattr(RunLock, "acquire", refuse)  # a real one would need root, or not be root
    assert refused(folder.path) == f"{folder.path}: cannot write there (Read-only file system)"


@pytest.mark.parametrize("text", [None, "{}", "torn"], ids=["absent", "empty", "torn"])
def test_what_is_no_runs_folder_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert "no run's folder" in refused(tmp_path)
    assert "no run's folder" in refused(tmp_path / "none")


@pytest.mark.parametrize("key", ["project", "entity"])
def test_a_run_stays_where_it_is(hurried: StandIn, folder: RunFolder, key: str) -> None:
    record = send(folder)
    before = len(hurried.log)
    assert f"is mirrored in {key} " in refused(folder.path, **{key: "elsewhere"})
    assert len(hurried.log) == before
    assert send(folder, project="perdure", entity=ENTITY) == record


def test_a_server_that_is_down_is_reported_and_the_same_command_sends_the_rest(
    hurried: StandIn, folder: RunFolder
) -> None:
    hurried.down()
    for _ in range(2):
        message = refused(folder.path)
        assert "not sent: the run could not be opened: the server does not answer" in message
        assert len(UploadQueue(folder.path).pending()) == 3
    hurried.up()
    record = send(folder)
    assert arrived(hurried, record) == [*orders(20), END]
    assert set(aliases(hurried, record)) == {"task-0", "task-1", "best", "latest"}


def test_uploads_that_fail_end_with_the_time_that_was_given(
    hurried: StandIn, folder: RunFolder
) -> None:
    hurried.fault("CommitArtifact", status=403)
    messages: list[str] = []
    message = refused(folder.path, seconds=1.0, notify=messages.append)
    assert message.endswith("3 uploads did not arrive in time; the same command sends the rest")
    assert len(messages) == 1
    assert "is tried again" in messages[0]
    hurried.faults.clear()
    assert set(aliases(hurried, send(folder))) == {"task-0", "task-1", "best", "latest"}
