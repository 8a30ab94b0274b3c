"""Pending uploads: complete even when their checkpoint is deleted, and only as many as needed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirrored import STEPS, RunFolder

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.io.files import digest
from perdure.wandb import upload_queue as module
from perdure.wandb.upload_queue import PendingUpload, UploadQueue


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.note(0, "running")
    return folder


@pytest.fixture
def queue(run: RunFolder) -> UploadQueue:
    return UploadQueue(run.path)


def names(queue: UploadQueue) -> list[str | None]:
    return [upload.checkpoint for upload in queue.pending()]


def aliases(queue: UploadQueue) -> list[list[str]]:
    return [upload.aliases for upload in queue.pending()]


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no-links"])
def test_an_upload_is_whole_when_its_checkpoint_is_deleted(
    run: RunFolder, queue: UploadQueue, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:
        monkeypatch.setattr(os, "link", _no_links)
    run.log([])
    path = run.checkpoint(STEPS, "task")
    before = digest(path)
    queue.add_checkpoint(path)
    files.remove(path)
    (run.path / "results.json").write_text("later")
    (upload,) = queue.pending()
    assert digest(upload.folder / path.name) == before == upload.metadata["sha256"]
    assert files.verify(upload.folder / path.name)["kind"] == "task"
    assert upload.aliases == ["latest", "task-0"]
    assert [p.name for p in upload.results] == ["metrics.jsonl", "results.json"]
    assert json.loads((upload.folder / "results.json").read_text())["status"] == "running"


def _no_links(*_: object) -> None:
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("kind", "best", "named"),
    [
        pytest.param("step", False, ["latest"], id="rolling"),
        pytest.param("task", False, ["latest", "task-0"], id="task"),
        pytest.param("epoch", True, ["latest", "best"], id="best"),
        pytest.param("epoch", False, ["latest"], id="epoch"),
        pytest.param("task", True, ["latest", "task-0", "best"], id="task-and-best"),
    ],
)
def test_a_checkpoint_has_its_names(
    run: RunFolder, queue: UploadQueue, kind: str, best: bool, named: list[str]
) -> None:
    queue.add_checkpoint(run.checkpoint(STEPS, kind, best))
    assert aliases(queue) == [named]


def test_a_task_whose_state_is_that_of_the_best_epoch_is_best(
    run: RunFolder, queue: UploadQueue
) -> None:
    epoch = run.checkpoint(STEPS, "epoch", best=True)
    task = epoch.with_name("0.pt")
    about = json.loads(sidecars.path_of(epoch).read_text())
    files.link(epoch, task, {**about, "kind": "task"})
    queue.add_checkpoint(task)
    assert aliases(queue) == [["latest", "task-0", "best"]]


def test_joint_training_has_a_name_of_its_own(run: RunFolder, queue: UploadQueue) -> None:
    path = run.checkpoint(STEPS, "task")
    about = json.loads(sidecars.path_of(path).read_text())
    sidecars.path_of(path).write_text(json.dumps({**about, "stage": "joint"}))
    queue.add_checkpoint(path)
    assert aliases(queue) == [["latest", "joint"]]


def test_what_only_latest_names_is_dropped_for_newer(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_checkpoint(run.checkpoint(3))
    queue.add_checkpoint(run.checkpoint(STEPS, "task"))
    assert names(queue) == ["0.pt"]
    queue.add_checkpoint(run.checkpoint(12))
    assert names(queue) == ["0.pt", "step-12_full.pth"]
    queue.add_checkpoint(run.checkpoint(15))
    assert names(queue) == ["0.pt", "step-15_full.pth"]


def test_best_moves_and_what_it_leaves_is_dropped_unless_it_ends_a_task(
    run: RunFolder, queue: UploadQueue
) -> None:
    queue.add_checkpoint(run.checkpoint(3, "epoch", best=True))
    queue.add_checkpoint(run.checkpoint(STEPS, "task", best=True))
    assert aliases(queue) == [["latest", "task-0", "best"]]
    queue.add_checkpoint(run.checkpoint(13, "epoch", best=True))
    assert aliases(queue) == [["latest", "task-0"], ["latest", "best"]]


def test_results_give_way_to_newer_results_alone(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_results()
    queue.add_checkpoint(run.checkpoint(3))
    assert names(queue) == [None, "step-3_full.pth"]
    run.note(STEPS)
    (run.path / "report.html").write_text("seen")
    (run.path / "figures").mkdir()
    (run.path / "figures" / "accuracy_matrix.png").write_bytes(b"drawn")
    queue.add_results()
    assert names(queue) == ["step-3_full.pth", None]
    upload = queue.pending()[-1]
    assert upload.aliases == ["latest", "final"]
    assert [p.name for p in upload.results] == [
        "accuracy_matrix.png", "report.html", "results.json",
    ]  # fmt: skip


def test_what_is_being_sent_stays_and_keeps_its_names(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_checkpoint(run.checkpoint(3, "epoch", best=True))
    (sending,) = queue.pending()
    assert queue.begin(sending)
    queue.add_checkpoint(run.checkpoint(5, "epoch", best=True))
    assert names(queue) == ["task0.3_full.pth", "task0.5_full.pth"]
    assert (sending.folder / "task0.3_full.pth").is_file()
    queue.sent(sending)
    assert names(queue) == ["task0.5_full.pth"]


def test_what_could_not_be_sent_is_pending_and_may_be_dropped(
    run: RunFolder, queue: UploadQueue
) -> None:
    queue.add_checkpoint(run.checkpoint(3))
    (upload,) = queue.pending()
    assert queue.begin(upload)
    queue.failed()
    assert names(queue) == ["step-3_full.pth"]
    queue.add_checkpoint(run.checkpoint(5))
    assert names(queue) == ["step-5_full.pth"]
    assert not queue.begin(upload)  # the sender had looked before


def test_the_folder_goes_with_the_last_upload(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_checkpoint(run.checkpoint(3))
    queue.add_results()
    for upload in queue.pending():
        assert queue.folder.is_dir()
        queue.sent(upload)
    assert not queue.folder.exists()


def test_what_a_crash_left_of_a_removed_upload_is_none_and_in_nobodys_way(
    run: RunFolder, queue: UploadQueue
) -> None:
    queue.add_checkpoint(run.checkpoint(3))
    (upload,) = queue.pending()
    (upload.folder / "upload.json").unlink()  # where `sent` begins
    after = UploadQueue(run.path)
    assert after.pending() == []
    after.add_checkpoint(run.checkpoint(5))
    assert names(after) == ["step-5_full.pth"]


@pytest.mark.parametrize("dies_in", ["_link", "copyfile", "save", "replace"])
def test_a_crash_while_an_upload_is_made_leaves_none(
    run: RunFolder, queue: UploadQueue, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add_checkpoint(run.checkpoint(STEPS, "task"))
    path = run.checkpoint(15)
    owner = {"_link": module, "copyfile": shutil, "save": PendingUpload, "replace": os}[dies_in]
    with monkeypatch.context() as patch:
        patch.setattr(owner, dies_in, _die)
        with pytest.raises(KeyboardInterrupt):
            queue.add_checkpoint(path)
    after = UploadQueue(run.path)
    assert names(after) == ["0.pt"]
    after.add_checkpoint(path)
    assert names(after) == ["0.pt", path.name]


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# --- the outbox of version 0.1 --------------------------------------------------------------------


def as_version_0_1(queue: UploadQueue) -> Path:
    """Bring what is pending into the form of that version; returns its folder."""
    outbox = queue.run / "outbox"
    outbox.mkdir()
    for upload in queue.pending():
        label = {"checkpoint": upload.checkpoint, "aliases": upload.aliases}
        (upload.folder / "parcel.json").write_text(json.dumps({**label, "about": upload.metadata}))
        (upload.folder / "upload.json").unlink()
        upload.folder.rename(outbox / upload.folder.name)
    queue.folder.rmdir()
    return outbox


def test_the_outbox_of_an_interrupted_run_is_continued(run: RunFolder, queue: UploadQueue) -> None:
    path = run.checkpoint(STEPS, "task", best=True)
    queue.add_checkpoint(path)
    queue.add_checkpoint(run.checkpoint(12))
    before = queue.pending()
    outbox = as_version_0_1(queue)
    (outbox / ".000003").mkdir()  # half made when that process was killed
    found = UploadQueue(run.path)
    assert not outbox.exists()
    assert [upload.folder for upload in found.pending()] == [upload.folder for upload in before]
    assert found.pending() == before
    assert digest(found.pending()[0].folder / "0.pt") == digest(path)
    found.add_checkpoint(run.checkpoint(13, "epoch", best=True))
    assert aliases(found) == [["latest", "task-0"], ["latest", "best"]]
    assert UploadQueue(run.path).pending() == found.pending()
    for upload in found.pending():
        found.sent(upload)
    assert not found.folder.exists()


def test_an_outbox_beside_a_queue_follows_it(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_checkpoint(run.checkpoint(20, "task"))
    as_version_0_1(queue)
    other = RunFolder(run.path.with_name("other"))
    newer = UploadQueue(other.path)
    newer.add_checkpoint(other.checkpoint(STEPS, "task"))
    shutil.move(newer.folder, queue.folder)
    assert names(UploadQueue(run.path)) == ["0.pt", "1.pt"]
    assert not (run.path / "outbox").exists()


@pytest.mark.parametrize("removed", ["upload.json", "parcel.json"])
def test_an_upload_of_both_versions_is_removed_before_its_aliases_are_wrong(
    run: RunFolder, queue: UploadQueue, removed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.add_checkpoint(run.checkpoint(3, "epoch", best=True))
    as_version_0_1(queue)
    (upload,) = UploadQueue(run.path).pending()
    upload.aliases.remove("best")
    upload.save()
    unlink = Path.unlink

    def die_after(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name == removed:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die_after)
        with pytest.raises(KeyboardInterrupt):
            UploadQueue(run.path).sent(upload)
    assert aliases(UploadQueue(run.path)) in ([], [["latest"]])


def test_a_torn_label_counts_for_nothing(run: RunFolder, queue: UploadQueue) -> None:
    queue.add_checkpoint(run.checkpoint(3))
    queue.add_results()
    label = queue.pending()[0].folder / "upload.json"
    label.write_bytes(label.read_bytes()[:20])
    assert names(queue) == [None]


ACTIONS = st.lists(
    st.sampled_from(["step", "task", "best", "results", "begin", "sent", "failed", "restart"]),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_whatever_happens_all_that_is_wanted_is_sent_in_order(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    world = World(RunFolder(tmp_path_factory.mktemp("run")))
    for action in actions:
        getattr(world, action)()
    world.restart()
    while world.queue.pending():
        world.begin()
        world.sent()
    world.check()


class World:
    """One adds and one sends, at any pace; the server keeps who was called what last."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.at = folder, 0
        self.queue = UploadQueue(folder.path)
        self.sending: PendingUpload | None = None
        self.expected: dict[str, str] = {}
        self.server: dict[str, str] = {}

    def step(self) -> None:
        self._add("step")

    def task(self) -> None:
        self._add("task", f"task-{self.at // STEPS}")

    def best(self) -> None:
        self._add("epoch", "best")

    def results(self) -> None:
        self.at += 1
        self.folder.note(self.at)
        self.queue.add_results()
        self.expected["results"] = digest(self.folder.path / "results.json")

    def _add(self, kind: str, *more: str) -> None:
        self.at += 1
        path = self.folder.checkpoint(self.at, kind, best=kind == "epoch")
        self.queue.add_checkpoint(path)
        self.expected.update(dict.fromkeys(("latest", *more), digest(path)))
        files.remove(path)

    def begin(self) -> None:
        waiting = self.queue.pending()
        if self.sending is None and waiting:
            assert self.queue.begin(waiting[0])
            self.sending = waiting[0]

    def sent(self) -> None:
        if self.sending is None:
            return
        upload, self.sending = self.sending, None
        if upload.checkpoint is None:
            self.server["results"] = digest(upload.folder / "results.json")
        else:
            found = digest(upload.folder / upload.checkpoint)
            self.server.update(dict.fromkeys(upload.aliases, found))
        self.queue.sent(upload)

    def failed(self) -> None:
        if self.sending is not None:
            self.queue.failed()
            self.sending = None

    def restart(self) -> None:
        self.queue, self.sending = UploadQueue(self.folder.path), None

    def check(self) -> None:
        assert self.server == self.expected
        assert not self.queue.folder.exists()
