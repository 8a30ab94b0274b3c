"""What waits for the upload: complete whatever is deleted, and only as much as is wanted."""

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
from perdure.wandb.upload_queue import Outbox, Parcel


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.note(0, "running")
    return folder


@pytest.fixture
def outbox(run: RunFolder) -> Outbox:
    return Outbox(run.path)


def names(outbox: Outbox) -> list[str | None]:
    return [parcel.checkpoint for parcel in outbox.waiting()]


def aliases(outbox: Outbox) -> list[list[str]]:
    return [parcel.aliases for parcel in outbox.waiting()]


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no-links"])
def test_a_parcel_is_whole_when_its_checkpoint_is_deleted(
    run: RunFolder, outbox: Outbox, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:
        monkeypatch.setattr(os, "link", _no_links)
    run.log([])
    path = run.checkpoint(STEPS, "task")
    before = digest(path)
    outbox.add_checkpoint(path)
    files.remove(path)
    (run.path / "results.json").write_text("later")
    (parcel,) = outbox.waiting()
    assert digest(parcel.folder / path.name) == before == parcel.about["sha256"]
    assert files.verify(parcel.folder / path.name)["kind"] == "task"
    assert parcel.aliases == ["latest", "task-0"]
    assert [p.name for p in parcel.results] == ["metrics.jsonl", "results.json"]
    assert json.loads((parcel.folder / "results.json").read_text())["status"] == "running"


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
    run: RunFolder, outbox: Outbox, kind: str, best: bool, named: list[str]
) -> None:
    outbox.add_checkpoint(run.checkpoint(STEPS, kind, best))
    assert aliases(outbox) == [named]


def test_a_task_whose_state_is_that_of_the_best_epoch_is_best(
    run: RunFolder, outbox: Outbox
) -> None:
    epoch = run.checkpoint(STEPS, "epoch", best=True)
    task = epoch.with_name("0.pt")
    about = json.loads(sidecars.path_of(epoch).read_text())
    files.link(epoch, task, {**about, "kind": "task"})
    outbox.add_checkpoint(task)
    assert aliases(outbox) == [["latest", "task-0", "best"]]


def test_joint_training_has_a_name_of_its_own(run: RunFolder, outbox: Outbox) -> None:
    path = run.checkpoint(STEPS, "task")
    about = json.loads(sidecars.path_of(path).read_text())
    sidecars.path_of(path).write_text(json.dumps({**about, "stage": "joint"}))
    outbox.add_checkpoint(path)
    assert aliases(outbox) == [["latest", "joint"]]


def test_nothing_but_latest_is_given_up_for_a_newer_one(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_checkpoint(run.checkpoint(3))
    outbox.add_checkpoint(run.checkpoint(STEPS, "task"))
    assert names(outbox) == ["0.pt"]
    outbox.add_checkpoint(run.checkpoint(12))
    assert names(outbox) == ["0.pt", "step-12_full.pth"]
    outbox.add_checkpoint(run.checkpoint(15))
    assert names(outbox) == ["0.pt", "step-15_full.pth"]


def test_best_moves_and_what_it_leaves_is_given_up_unless_it_ends_a_task(
    run: RunFolder, outbox: Outbox
) -> None:
    outbox.add_checkpoint(run.checkpoint(3, "epoch", best=True))
    outbox.add_checkpoint(run.checkpoint(STEPS, "task", best=True))
    assert aliases(outbox) == [["latest", "task-0", "best"]]
    outbox.add_checkpoint(run.checkpoint(13, "epoch", best=True))
    assert aliases(outbox) == [["latest", "task-0"], ["latest", "best"]]


def test_results_give_way_to_newer_results_alone(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_results()
    outbox.add_checkpoint(run.checkpoint(3))
    assert names(outbox) == [None, "step-3_full.pth"]
    run.note(STEPS)
    (run.path / "report.html").write_text("seen")
    outbox.add_results()
    assert names(outbox) == ["step-3_full.pth", None]
    parcel = outbox.waiting()[-1]
    assert parcel.aliases == ["latest", "final"]
    assert [p.name for p in parcel.results] == ["report.html", "results.json"]


def test_what_is_being_sent_stays_and_keeps_its_names(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_checkpoint(run.checkpoint(3, "epoch", best=True))
    (sending,) = outbox.waiting()
    assert outbox.begin(sending)
    outbox.add_checkpoint(run.checkpoint(5, "epoch", best=True))
    assert names(outbox) == ["task0.3_full.pth", "task0.5_full.pth"]
    assert (sending.folder / "task0.3_full.pth").is_file()
    outbox.sent(sending)
    assert names(outbox) == ["task0.5_full.pth"]


def test_what_could_not_be_sent_waits_and_may_be_given_up(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_checkpoint(run.checkpoint(3))
    (parcel,) = outbox.waiting()
    assert outbox.begin(parcel)
    outbox.failed()
    assert names(outbox) == ["step-3_full.pth"]
    outbox.add_checkpoint(run.checkpoint(5))
    assert names(outbox) == ["step-5_full.pth"]
    assert not outbox.begin(parcel)  # the sender had looked before


def test_the_folder_goes_with_the_last_parcel(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_checkpoint(run.checkpoint(3))
    outbox.add_results()
    for parcel in outbox.waiting():
        assert outbox.folder.is_dir()
        outbox.sent(parcel)
    assert not outbox.folder.exists()


def test_what_a_crash_left_of_a_removed_parcel_is_none_and_in_nobodys_way(
    run: RunFolder, outbox: Outbox
) -> None:
    outbox.add_checkpoint(run.checkpoint(3))
    (parcel,) = outbox.waiting()
    (parcel.folder / "parcel.json").unlink()  # where `sent` begins
    after = Outbox(run.path)
    assert after.waiting() == []
    after.add_checkpoint(run.checkpoint(5))
    assert names(after) == ["step-5_full.pth"]


@pytest.mark.parametrize("dies_in", ["_link", "copyfile", "save", "replace"])
def test_a_crash_while_a_parcel_is_made_leaves_none(
    run: RunFolder, outbox: Outbox, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.add_checkpoint(run.checkpoint(STEPS, "task"))
    path = run.checkpoint(15)
    owner = {"_link": module, "copyfile": shutil, "save": Parcel, "replace": os}[dies_in]
    with monkeypatch.context() as patch:
        patch.setattr(owner, dies_in, _die)
        with pytest.raises(KeyboardInterrupt):
            outbox.add_checkpoint(path)
    after = Outbox(run.path)
    assert names(after) == ["0.pt"]
    after.add_checkpoint(path)
    assert names(after) == ["0.pt", path.name]


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_torn_label_counts_for_nothing(run: RunFolder, outbox: Outbox) -> None:
    outbox.add_checkpoint(run.checkpoint(3))
    outbox.add_results()
    label = outbox.waiting()[0].folder / "parcel.json"
    label.write_bytes(label.read_bytes()[:20])
    assert names(outbox) == [None]


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
    while world.outbox.waiting():
        world.begin()
        world.sent()
    world.check()


class World:
    """One adds and one sends, at any pace; the server keeps who was called what last."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.at = folder, 0
        self.outbox = Outbox(folder.path)
        self.sending: Parcel | None = None
        self.wanted: dict[str, str] = {}
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
        self.outbox.add_results()
        self.wanted["results"] = digest(self.folder.path / "results.json")

    def _add(self, kind: str, *more: str) -> None:
        self.at += 1
        path = self.folder.checkpoint(self.at, kind, best=kind == "epoch")
        self.outbox.add_checkpoint(path)
        self.wanted.update(dict.fromkeys(("latest", *more), digest(path)))
        files.remove(path)

    def begin(self) -> None:
        waiting = self.outbox.waiting()
        if self.sending is None and waiting:
            assert self.outbox.begin(waiting[0])
            self.sending = waiting[0]

    def sent(self) -> None:
        if self.sending is None:
            return
        parcel, self.sending = self.sending, None
        if parcel.checkpoint is None:
            self.server["results"] = digest(parcel.folder / "results.json")
        else:
            found = digest(parcel.folder / parcel.checkpoint)
            self.server.update(dict.fromkeys(parcel.aliases, found))
        self.outbox.sent(parcel)

    def failed(self) -> None:
        if self.sending is not None:
            self.outbox.failed()
            self.sending = None

    def restart(self) -> None:
        self.outbox, self.sending = Outbox(self.folder.path), None

    def check(self) -> None:
        assert self.server == self.wanted
        assert not self.outbox.folder.exists()
