"""The server is brought to what the folder holds, once, whatever was cut on the way."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import pairwise
from typing import Any

import pytest
from mirrored import PIXEL, PROJECT, RunFolder, line, lines, open_mirror, orders
from wandb_server import StandIn

from perdure.checkpoint.core import format as files
from perdure.io.files import digest
from perdure.wandb import record as records
from perdure.wandb import rows
from perdure.wandb.mirror import Mirror
from perdure.wandb.session import MirrorError

pytestmark = pytest.mark.process

HISTORY = "wandb-history.jsonl"
END = rows.order("end", 20)


def arrived(server: StandIn) -> list[Any]:
    return server.values(PROJECT, "r1", rows.ORDER)


def close(mirror: Mirror, folder: RunFolder, status: str = "failed") -> bool:
    return mirror.close(folder.note(20, status))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        pytest.param(None, 8, id="all-arrived"),
        pytest.param(9, 5, id="the-last-rows-did-not-arrive"),
        pytest.param(3, 8, id="the-checkpoint-is-ahead-of-the-server"),
        pytest.param(None, 0, id="from-the-start-again"),
        pytest.param(0, 0, id="nothing-arrived"),
        pytest.param(11, 11, id="at-the-same-row"),
    ],
)
def test_every_row_is_there_once_after_a_kill(
    hurried: StandIn, folder: RunFolder, kept: int | None, cut: int
) -> None:
    whole = lines(20)
    folder.log(whole[:13])
    killed = open_mirror(folder)
    killed.push_rows()
    close(killed, folder)
    del hurried.run(PROJECT, "r1").stream[HISTORY][kept:]
    folder.log(whole[:cut])  # as the checkpoint knew it
    mirror = open_mirror(folder)
    for until in (cut, cut + 1, 18, 24):
        folder.log(whole[:until])
        mirror.push_rows()
    assert close(mirror, folder)
    assert arrived(hurried) == orders(20)
    losses = hurried.values(PROJECT, "r1", "train/loss")
    assert losses == [one["loss"] for one in whole if one["kind"] == "step"]


def test_logging_less_often_after_a_resume_leaves_every_row_once(
    hurried: StandIn, folder: RunFolder
) -> None:
    folder.log(lines(12))
    killed = open_mirror(folder)
    killed.push_rows()
    close(killed, folder)
    folder.log([one for one in lines(20, 4) if one["global_step"] > 5])
    mirror = open_mirror(folder)
    mirror.push_rows()
    assert close(mirror, folder)
    assert arrived(hurried) == [*orders(12), *(o for o in orders(20, 4) if o > orders(12)[-1])]
    assert all(a < b for a, b in pairwise(arrived(hurried)))


def test_a_row_is_sent_when_its_line_is_whole(hurried: StandIn, folder: RunFolder) -> None:
    text = "".join(json.dumps(line(at)) + "\n" for at in (1, 2))
    path = folder.path / "metrics.jsonl"
    mirror = open_mirror(folder)
    path.unlink()
    mirror.push_rows()
    for end in (20, text.index("\n"), len(text) - 1, len(text)):
        path.write_text(text[:end])
        mirror.push_rows()
    assert close(mirror, folder)
    assert hurried.values(PROJECT, "r1", "global_step") == [1, 2]


def test_rows_of_one_step_are_all_sent(hurried: StandIn, folder: RunFolder) -> None:
    folder.log(lines(10)[-3:])
    mirror = open_mirror(folder)
    mirror.push_rows()
    assert close(mirror, folder)
    assert hurried.values(PROJECT, "r1", "global_step") == [10, 10, 10]
    assert arrived(hurried) == [40, 41, 42]


# --- the end --------------------------------------------------------------------------------------


def test_a_finished_run_has_its_matrix_and_summary_once(
    hurried: StandIn, folder: RunFolder
) -> None:
    results = folder.write(20)
    (folder.path / "figures").mkdir()
    (folder.path / "figures" / "accuracy_matrix.png").write_bytes(PIXEL)
    for _ in range(2):
        mirror = open_mirror(folder)
        mirror.push_end(results)
        assert mirror.close(results)
    assert arrived(hurried) == [*orders(20), END]
    (row,) = (r for r in hurried.history(PROJECT, "r1") if r["order"] == END)
    assert row["accuracy_matrix/picture"]["_type"] == "image-file"
    assert (row["accuracy_matrix/class_il"]["nrows"], row["global_step"]) == (2, 20)
    run = hurried.run(PROJECT, "r1")
    assert run.state == "finished"
    assert "media/images" in "".join(run.uploaded)
    summary = run.summary()
    assert summary["best/class_il/avg_acc"] == pytest.approx(0.9)
    assert summary["last/class_il/avg_acc"] == pytest.approx(0.85)
    assert (summary["status"], summary["tasks_done"]) == ("finished", 2)


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_rows_that_a_run_had_not_written_when_it_broke_off_come_later(
    hurried: StandIn, folder: RunFolder, status: str
) -> None:
    whole = lines(20)
    folder.log(whole[:-2])  # step 20 is done; its evaluation failed
    broken = open_mirror(folder)
    broken.push_end({**folder.note(20, status), "tasks_done": 1})
    close(broken, folder)
    results = folder.write(20)
    mirror = open_mirror(folder)
    mirror.push_end(results)
    assert mirror.close(results)
    assert arrived(hurried) == [*orders(20), END]
    # The best of a run is that of all its processes.
    assert hurried.run(PROJECT, "r1").summary()["best/class_il/avg_acc"] == pytest.approx(0.9)


def test_rows_that_the_server_refused_are_missed_and_sent_later(
    hurried: StandIn, folder: RunFolder
) -> None:
    hurried.fault("file_stream", status=400)
    mirror = open_mirror(folder)
    mirror.push_rows()
    assert not close(mirror, folder)
    hurried.faults.clear()
    later = open_mirror(folder)
    later.push_rows()
    assert close(later, folder)
    assert arrived(hurried) == orders(20)


def test_an_end_that_nobody_can_confirm_is_an_error(hurried: StandIn, folder: RunFolder) -> None:
    mirror = open_mirror(folder)
    mirror.push_rows()
    hurried.fault("Run", status=403, message="permission denied")
    with pytest.raises(MirrorError, match="its history could not be read: the API key has no perm"):
        close(mirror, folder)


# --- pending uploads ------------------------------------------------------------------------------


def collection(server: StandIn, kind: str) -> Any:
    return server.project(PROJECT).sequences[f"{kind}-r1"]


def named(server: StandIn, kind: str) -> dict[str, int]:
    return {alias: a.versionIndex for alias, a in collection(server, kind).by_alias.items()}


def test_a_checkpoint_is_sent_with_the_results_that_belong_to_it(
    hurried: StandIn, folder: RunFolder
) -> None:
    path = folder.checkpoint(10, "task", best=True)
    mirror = open_mirror(folder)
    mirror.queue.add_checkpoint(path)
    before = {name: digest(folder.path / name) for name in ("results.json", "metrics.jsonl")}
    folder.note(20)
    assert mirror.push_upload()
    assert not mirror.push_upload()  # there are no more
    close(mirror, folder)
    (sent,) = collection(hurried, "ckpt").versions
    assert sent.artifactType["name"] == "model"
    assert named(hurried, "ckpt") == {"latest": 0, "task-0": 0, "best": 0}
    assert set(sent.entries) == {"0.pt", "0.pt.json"}
    assert sent.read("0.pt") == path.read_bytes()
    about = json.loads(sent.metadata)
    assert (about["run"], about["file"]) == ("r1", "0.pt")
    assert (about["sha256"], about["position"]["global_step"]) == (digest(path), 10)
    assert about["results"] == "tester/cl/results-r1:v0"
    (results,) = collection(hurried, "results").versions
    assert {name: about["results_sha256"][name] for name in before} == before
    assert json.loads(results.read("recorders.json")) == {"files": {"metrics_bytes": 10}}
    assert set(results.entries) == {"results.json", "metrics.jsonl", "recorders.json"}
    record = records.load(folder.path)
    assert record is not None
    assert record.artifact_of(digest(path)) == "tester/cl/ckpt-r1:v0"
    assert not mirror.queue.folder.exists()


def test_aliases_move_to_newer_versions(hurried: StandIn, folder: RunFolder) -> None:
    mirror = open_mirror(folder)
    for at, kind, best in ((8, "epoch", True), (10, "task", False), (18, "epoch", True)):
        mirror.queue.add_checkpoint(folder.checkpoint(at, kind, best))
        assert mirror.push_upload()
    mirror.queue.add_results()
    assert mirror.push_upload()
    assert mirror.record.results_sha256 == digest(folder.path / "results.json")
    close(mirror, folder)
    assert named(hurried, "ckpt") == {"task-0": 1, "latest": 2, "best": 2}
    final = collection(hurried, "results").by_alias
    assert final["final"] is final["latest"]


def test_an_upload_sent_twice_is_one_version(hurried: StandIn, folder: RunFolder) -> None:
    mirror = open_mirror(folder)
    mirror.queue.add_checkpoint(folder.checkpoint(10, "task"))
    aside = folder.path / "aside"
    shutil.copytree(mirror.queue.folder, aside)
    assert mirror.push_upload()
    aside.rename(mirror.queue.folder)  # killed before it was taken out
    assert mirror.push_upload()
    close(mirror, folder)
    assert [len(collection(hurried, kind).versions) for kind in ("ckpt", "results")] == [1, 1]


def test_an_upload_stays_until_the_server_has_committed_it(
    hurried: StandIn, folder: RunFolder
) -> None:
    commit = threading.Event()
    mirror = open_mirror(folder)
    path = folder.checkpoint(10, "task")
    mirror.queue.add_checkpoint(path)
    hurried.fault("CommitArtifact", hold=commit)
    sender = threading.Thread(target=mirror.push_upload)
    sender.start()
    for nth in (1, 2):  # the results, then the checkpoint
        hurried.wait_for("CommitArtifact", nth)
        (waiting,) = mirror.queue.pending()
        assert files.verify(waiting.folder / path.name)
        commit.set()
    sender.join()
    assert mirror.queue.pending() == []
    close(mirror, folder)


@pytest.mark.parametrize(
    ("where", "fault", "words"),
    [
        pytest.param("PUT storage", {"status": 403}, "have failed", id="upload-refused"),
        pytest.param("CommitArtifact", {"message": "too large"}, "too large", id="commit-refused"),
        pytest.param("CreateArtifact", {"status": 403}, "no permission", id="no-permission"),
    ],
)
def test_what_fails_is_reported_once_and_sent_when_it_can_be(
    hurried: StandIn, folder: RunFolder, where: str, fault: dict[str, Any], words: str
) -> None:
    messages: list[str] = []
    mirror = open_mirror(folder, messages)
    hurried.fault(where, **fault)
    mirror.queue.add_checkpoint(folder.checkpoint(10, "task"))
    assert not mirror.push_upload()
    assert not mirror.push_upload()
    assert len(messages) == 1
    assert messages[0].startswith("results-r1 could not be uploaded: ")
    assert words in messages[0]
    assert messages[0].endswith("; it is tried again")
    assert len(mirror.queue.pending()) == 1
    hurried.faults.clear()
    assert mirror.push_upload()
    hurried.fault(where, **fault)
    mirror.queue.add_checkpoint(folder.checkpoint(20, "task"))
    assert not mirror.push_upload()
    assert len(messages) == 2
    close(mirror, folder)
    assert named(hurried, "ckpt") == {"latest": 0, "task-0": 0}


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        pytest.param("PUT storage", {"status": 500, "times": 1}, id="upload-error"),
        pytest.param("PUT storage", {"cut": 10, "times": 1}, id="upload-cut"),
        pytest.param("CommitArtifact", {"status": 500, "times": 1}, id="commit-error"),
        pytest.param("CommitArtifact", {"lose": True, "times": 1}, id="answer-lost"),
    ],
)
def test_what_fails_for_a_moment_is_no_news(
    hurried: StandIn, folder: RunFolder, where: str, fault: dict[str, Any]
) -> None:
    messages: list[str] = []
    mirror = open_mirror(folder, messages)
    path = folder.checkpoint(10, "task")
    mirror.queue.add_checkpoint(path)
    hurried.fault(where, **fault)
    assert mirror.push_upload()
    close(mirror, folder)
    assert messages == []
    (sent,) = collection(hurried, "ckpt").versions
    assert sent.read("0.pt") == path.read_bytes()


def test_a_failed_upload_waits_for_its_time(
    hurried: StandIn, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.wandb.mirror._PAUSES", (3600.0,))
    mirror = open_mirror(folder)
    hurried.fault("CreateArtifact", status=403, times=1)
    mirror.queue.add_checkpoint(folder.checkpoint(10, "task"))
    assert not mirror.push_upload()
    n_requests = len(hurried.log)
    assert not mirror.push_upload()
    assert "CreateArtifact" not in hurried.log[n_requests:]
    mirror.retry_now()
    assert mirror.push_upload()
    close(mirror, folder)


def test_a_server_that_goes_and_comes_back_misses_nothing(
    hurried: StandIn, folder: RunFolder
) -> None:
    whole, messages = lines(20), list[str]()
    folder.log(whole[:5])
    mirror = open_mirror(folder, messages)
    mirror.push_rows()
    hurried.wait_until(lambda: len(arrived(hurried)) == 5)
    hurried.down()
    mirror.queue.add_checkpoint(folder.checkpoint(10, "task"))
    folder.log(whole)
    mirror.push_rows()
    assert not mirror.push_upload()
    assert len(messages) == 1
    hurried.up()
    assert mirror.push_upload()
    assert close(mirror, folder)
    assert arrived(hurried) == orders(20)
    assert named(hurried, "ckpt") == {"latest": 0, "task-0": 0}


def test_closing_ends_an_upload_that_hangs_and_a_later_mirror_sends_it(
    hurried: StandIn, folder: RunFolder
) -> None:
    release, outcome, messages = threading.Event(), list[bool](), list[str]()
    mirror = open_mirror(folder, messages, finish=1)
    mirror.push_rows()
    hurried.wait_until(lambda: len(arrived(hurried)) == len(orders(20)))
    hurried.fault("PUT storage", hold=release)
    mirror.queue.add_checkpoint(folder.checkpoint(10, "task"))
    before = len(hurried.log)
    sender = threading.Thread(target=lambda: outcome.append(mirror.push_upload()))
    sender.start()
    hurried.wait_for("PUT storage", since=before)
    assert close(mirror, folder)
    sender.join()
    assert (outcome, messages) == ([False], [])
    assert len(mirror.queue.pending()) == 1
    release.set()
    hurried.faults.clear()
    later = open_mirror(folder)
    assert later.push_upload()
    close(later, folder)
    assert named(hurried, "ckpt") == {"latest": 0, "task-0": 0}
