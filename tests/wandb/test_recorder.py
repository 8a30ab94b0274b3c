"""W&B listens to a run, and the run never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, RunFolder, line, orders
from wandb_server import StandIn

from perdure.errors import UserError
from perdure.tracking.events import CheckpointSaved, Event, RunEnd, RunStart, StepLog, Tick
from perdure.wandb import record as records
from perdure.wandb.record import Record
from perdure.wandb.recorder import WandB
from perdure.wandb.rows import ORDER, order
from perdure.wandb.upload_queue import UploadQueue

pytestmark = pytest.mark.process

TICK = Tick(0, 0, 1, 1)
STEP = StepLog(0, 0, 1, 1, 0.5, 0.1, 100.0)


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.wandb.recorder._EVERY_SECONDS", 0.05)


class Play:
    """A run with its recorder, the messages of that, and the events that it receives."""

    def __init__(self, folder: RunFolder, online: bool = True, **more: Any) -> None:
        self.folder, self.messages = folder, list[str]()
        self.stopped = threading.Event()
        record = more.pop("record", None) or Record("r1", PROJECT)
        self.recorder = WandB(
            folder.path,
            record,
            online,
            notify=self.messages.append,
            on_stop=self.stopped.set,
            **more,
        )

    def receive(self, event: Event) -> None:
        self.recorder.receive(event)

    def start(self) -> None:
        results = self.folder.note(0, "running")
        config = {"seed": 0, "output_root": str(self.folder.path.parent)}
        self.receive(RunStart(self.folder.path, config, results, 2, 100, "cpu"))

    def written(self, at: int, kind: str = "task") -> None:
        path = self.folder.checkpoint(at, kind)
        self.receive(CheckpointSaved(path, 0, at, 0.0))

    def end(self, status: str = "finished", error: str | None = None) -> None:
        self.receive(RunEnd(self.folder.note(20, status), error))

    def over(self) -> None:
        """Until the thread has given up."""
        thread = self.recorder._thread
        assert thread is not None
        thread.join(20)
        assert not thread.is_alive()

    @property
    def sync(self) -> str:
        return f"perdure sync-wandb {self.folder.path}"

    @property
    def waiting(self) -> int:
        return len(UploadQueue(self.folder.path).pending())


@pytest.fixture
def play(folder: RunFolder) -> Play:
    return Play(folder, finish_seconds=20)


def arrived(server: StandIn, run: str = "r1") -> list[Any]:
    return server.values(PROJECT, run, ORDER)


def test_a_run_is_mirrored_as_it_goes(hurried: StandIn, play: Play) -> None:
    play.folder.log([])
    play.start()
    play.written(10)
    hurried.wait_for("CommitArtifact", 2)
    play.folder.write(20)
    hurried.wait_until(lambda: len(arrived(hurried)) == len(orders(20)))  # before it ends
    play.end()
    url = play.recorder.record.url
    assert play.messages == [f"W&B: mirrored to {url}", f"W&B: all is at {url}"]
    assert arrived(hurried) == [*orders(20), order("end", 20)]
    run = hurried.run(PROJECT, "r1")
    assert (run.state, run.config_values()["seed"]) == ("finished", 0)
    found = hurried.project(PROJECT).sequences
    assert set(found["ckpt-r1"].by_alias) == {"latest", "task-0"}
    assert set(found["results-r1"].by_alias) == {"latest", "final"}
    assert play.waiting == 0


def test_what_an_earlier_process_left_unsent_is_sent(hurried: StandIn, play: Play) -> None:
    play.folder.checkpoint(10, "task")
    UploadQueue(play.folder.path).add_checkpoint(play.folder.path / "checkpoints" / "0.pt")
    play.start()
    hurried.wait_for("CommitArtifact", 2)
    play.end("interrupted", "stopped by SIGTERM")
    assert set(hurried.project(PROJECT).sequences["ckpt-r1"].by_alias) == {"latest", "task-0"}
    assert play.waiting == 0


def test_metrics_alone_when_no_artifacts_are_wanted(hurried: StandIn, folder: RunFolder) -> None:
    play = Play(folder, artifacts=False)
    play.start()
    play.written(10)
    play.end("failed", "no more")
    assert arrived(hurried) == orders(20)
    assert hurried.project(PROJECT).sequences == {}
    assert play.waiting == 0


# --- training does not wait -----------------------------------------------------------------------


@pytest.fixture
def held(hurried: StandIn) -> Iterator[threading.Event]:
    """Keeps the server from answering."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize(
    "request_name",
    ["RunResumeStatus", "UpsertBucket", "file_stream", "ArtifactType", "PUT storage"],
)
def test_training_continues_while_the_server_does_not_answer(
    hurried: StandIn,
    play: Play,
    held: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    request_name: str,
) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "60")  # so that no call ends by itself
    hurried.fault(request_name, hold=held)
    play.start()
    play.written(10)
    hurried.wait_for(request_name)
    commits, before = hurried.log.count("CommitArtifact"), list(play.messages)
    for event in (STEP, TICK):
        play.receive(event)
    play.written(15, "step")
    play.receive(TICK)
    # Nothing has failed or gone on meanwhile: the request was open all the time.
    assert hurried.log.count("CommitArtifact") == commits
    assert not [sentence for sentence in play.messages[len(before) :] if "mirrored" not in sentence]
    held.set()
    hurried.faults.clear()
    play.end()
    assert play.messages[-1] == f"W&B: all is at {play.recorder.record.url}"
    assert arrived(hurried) == [*orders(20), order("end", 20)]


@pytest.mark.parametrize(
    ("request_name", "unsent"),
    [
        pytest.param("RunResumeStatus", 2, id="opening"),
        pytest.param("PUT storage", 2, id="uploads"),
        pytest.param("file_stream", 0, id="rows"),
    ],
)
def test_the_end_waits_for_so_long_only(
    hurried: StandIn, folder: RunFolder, held: threading.Event, request_name: str, unsent: int
) -> None:
    hurried.fault(request_name, hold=held)
    play = Play(folder, finish_seconds=2)
    play.start()
    play.written(10)
    hurried.wait_for(request_name)
    play.end()
    assert not held.is_set()
    assert play.messages[-1].endswith(f"; {play.sync} sends the rest")
    assert "all is at" not in " ".join(play.messages)
    assert play.waiting == unsent
    held.set()
    play.over()


def test_the_end_does_not_wait_for_the_last_question_either(
    hurried: StandIn, folder: RunFolder, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.wandb.session.REQUEST_SECONDS", 60)
    hurried.fault("Run", hold=held)
    play = Play(folder, finish_seconds=2, artifacts=False)
    play.start()
    hurried.wait_for("file_stream")
    play.end()
    assert play.messages[-1] == f"W&B: not done after 2 s; {play.sync} sends the rest"
    held.set()
    play.over()


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_error", "rest"),
    [
        pytest.param("offline", "; {sync} sends the rest", id="offline"),
        pytest.param("disable", "; nothing more is sent", id="disable"),
    ],
)
def test_training_continues_without_a_server_which_is_reported_once(
    hurried: StandIn, folder: RunFolder, on_error: str, rest: str
) -> None:
    hurried.deny(project=PROJECT)
    play = Play(folder, on_error=on_error)
    play.start()
    play.over()
    for event in (STEP, TICK):
        play.receive(event)
    play.written(10)
    play.end()
    reason = "the run could not be opened: the API key has no permission there"
    assert play.messages == [f"W&B: {reason}{rest.format(sync=play.sync)}"]
    assert play.waiting == 0


def test_a_run_ends_when_it_is_to_end_with_its_server(hurried: StandIn, folder: RunFolder) -> None:
    hurried.deny(project=PROJECT)
    play = Play(folder, on_error="raise")
    play.start()
    play.over()
    with pytest.raises(UserError, match=r"^tracking\.wandb\.on_error=raise: the run could not"):
        play.receive(TICK)
    play.end("failed", "tracking.wandb.on_error=raise: …")  # reported once
    assert play.messages == []


def test_what_is_unsent_at_the_end_is_an_error_where_errors_are_to_be_raised(
    hurried: StandIn, folder: RunFolder
) -> None:
    play = Play(folder, on_error="raise", finish_seconds=2)
    hurried.fault("CommitArtifact", status=403)
    play.start()
    play.written(10)
    with pytest.raises(UserError, match="on_error=raise: 2 uploads are not sent"):
        play.end()
    assert play.waiting == 2


def test_the_reason_why_a_run_ended_is_not_hidden_by_another(
    hurried: StandIn, folder: RunFolder
) -> None:
    hurried.fault("file_stream", status=400)
    play = Play(folder, on_error="raise", artifacts=False)
    play.start()
    play.end("interrupted", "stopped by SIGTERM")
    assert play.messages[-1] == "W&B: the last rows have not been seen to arrive"


def test_a_mistake_of_ours_does_not_end_the_run(hurried: StandIn, folder: RunFolder) -> None:
    (folder.path / "metrics.jsonl").write_text("no JSON\n")
    play = Play(folder)
    play.start()
    play.over()
    play.receive(TICK)
    assert play.messages[-1].startswith("W&B: JSONDecodeError: ")
    assert hurried.run(PROJECT, "r1").state == "failed"


def test_a_checkpoint_that_cannot_be_kept_is_reported(hurried: StandIn, play: Play) -> None:
    play.start()
    play.receive(CheckpointSaved(play.folder.path / "checkpoints" / "gone.pt", 0, 1, 0.0))
    assert "gone.pt cannot be queued for upload" in " ".join(play.messages)
    play.end("failed", "no more")


# --- offline --------------------------------------------------------------------------------------


def test_offline_nothing_is_started_and_the_folder_keeps_all(
    hurried: StandIn, folder: RunFolder
) -> None:
    play, before = Play(folder, online=False), threading.enumerate()
    play.start()
    play.written(10)
    play.end()
    assert play.messages == [f"W&B: offline; {play.sync} sends it later"]
    assert (hurried.log, threading.enumerate()) == ([], before)
    record = records.load(folder.path)
    assert record is not None
    assert (record.id, record.config["seed"]) == ("r1", 0)
    assert not (folder.path / "wandb").exists()
    assert play.waiting == 0


# --- state ----------------------------------------------------------------------------------------

KNOWN = {"entity": "team", "name": "n", "group": "g", "job_type": "j", "tags": ["t"], "notes": "w"}


def test_a_run_that_is_continued_is_the_same_run(tmp_path: Path) -> None:
    first = WandB(tmp_path, Record("r1", PROJECT, **KNOWN), online=False)
    fresh = WandB(tmp_path, Record("r2", "elsewhere"), online=False, continues=True)
    fresh.load_state_dict(first.state_dict())
    assert fresh.record == first.record
    assert fresh.record is not first.record


def test_a_fork_is_a_run_of_its_own(tmp_path: Path) -> None:
    first = WandB(tmp_path, Record("r1", PROJECT, **KNOWN), online=False)
    fork = WandB(tmp_path, Record("r2", "elsewhere"), online=False)
    fork.load_state_dict(first.state_dict())
    assert fork.record == Record("r2", "elsewhere")


def test_what_a_checkpoint_did_not_know_yet_stays_as_it_is_known(tmp_path: Path) -> None:
    record = Record("r1", PROJECT, entity="team", config={"seed": 0})
    recorder = WandB(tmp_path, record, online=False, continues=True)
    recorder.load_state_dict({"id": "r1", "entity": None, "config": {}, "save": "no name of ours"})
    assert recorder.record == Record("r1", PROJECT, entity="team", config={"seed": 0})
    assert callable(recorder.record.save)


# --- the page, and others -------------------------------------------------------------------------


def test_stop_on_the_runs_page_asks_the_run_to_stop(
    hurried: StandIn, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk.lib.run_stopping import RunStopChecker

    monkeypatch.setitem(RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.1)
    play.folder.log([])
    play.start()
    hurried.wait_for("file_stream")
    assert not play.stopped.is_set()
    hurried.run(PROJECT, "r1").stopped = True
    play.folder.log([line(1)])
    assert play.stopped.wait(20)
    play.end("interrupted", "stopped from its W&B page")
    assert hurried.run(PROJECT, "r1").state == "preempted"


def test_the_jobs_of_a_sweep_are_runs_of_their_own(hurried: StandIn, tmp_path: Path) -> None:
    for job in ("0", "1"):
        folder = RunFolder(tmp_path / job)
        folder.write(10 * (1 + int(job)))
        play = Play(folder, record=Record(f"r{job}", PROJECT, group="sweep"))
        play.start()
        play.end("failed", "no more")
    assert arrived(hurried, "r0") == orders(10)
    assert arrived(hurried, "r1") == orders(20)
    assert {run.group for run in hurried.project(PROJECT).run_by_name.values()} == {"sweep"}


class Idle(threading.Event):
    """Counts the waits; set by the fifth."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        if self.waits == 5:
            self.set()
        return self.is_set()


def test_a_retry_is_waited_for_at_rest(play: Play) -> None:
    class Failing:
        tries = 0

        def push_upload(self) -> bool:
            self.tries += 1
            return self.tries > 100

    play.recorder._ended.set()
    play.recorder._closed = idle = Idle()
    mirror: Any = Failing()
    play.recorder._upload(mirror)
    assert mirror.tries == idle.waits == 5


def test_a_disk_that_takes_no_upload_ends_no_run(wandb_server: StandIn, play: Play) -> None:
    play.folder.log([line(1)])
    (play.folder.path / "upload_queue").write_text("in the way")
    play.start()
    play.written(10)
    play.end()
    kept = [sentence for sentence in play.messages if "cannot be queued for upload" in sentence]
    assert [sentence.partition(" cannot")[0] for sentence in kept] == [
        "W&B: 0.pt",
        "W&B: the results",
    ]
