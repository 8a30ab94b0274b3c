"""Who listens to a run, and which run of W&B mirrors it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from mirrored import RunFolder
from wandb_server import API_KEY

import perdure
from perdure.checkpoint.core import format as files
from perdure.config.typed import typed
from perdure.errors import UserError
from perdure.io.files import digest
from perdure.run.preemption import StopFlag
from perdure.run.recorders import NoticeLog, make_recorders
from perdure.run.resume import RestorePoint
from perdure.tracking.console import Console
from perdure.tracking.events import Recorder
from perdure.tracking.files import LocalFiles
from perdure.wandb.record import Record
from perdure.wandb.recorder import WandB

TIMESTAMP = "20261122-072200"
MIRRORED = ("tracking=wandb", "tracking.wandb.mode=offline")


@pytest.fixture(autouse=True)
def nobodys_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, and nothing set in the environment."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def made(
    *overrides: str,
    folder: Path | None,
    source: RestorePoint | None = None,
    sweep: str | None = None,
) -> list[Recorder]:
    config = perdure.compose(f"timestamp={TIMESTAMP}", *overrides)
    return make_recorders(typed(config), folder, source, sweep, StopFlag())


def mirror(*overrides: str, folder: Path, **more: Any) -> WandB:
    last = made(*MIRRORED, *overrides, folder=folder, **more)[-1]
    assert isinstance(last, WandB)
    return last


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        pytest.param([], [LocalFiles, Console], id="local"),
        pytest.param(["tracking.console=off"], [LocalFiles, NoticeLog], id="no-console"),
        pytest.param(MIRRORED, [LocalFiles, Console, WandB], id="wandb-hears-it-last"),
        pytest.param(["tracking=wandb", "tracking.wandb.mode=disabled"], [LocalFiles, Console],
                     id="disabled"),
    ],
)  # fmt: skip
def test_who_listens(tmp_path: Path, overrides: list[str], kinds: list[type]) -> None:
    assert [type(one) for one in made(*overrides, folder=tmp_path)] == kinds


def test_a_run_without_a_folder_keeps_no_files_and_cannot_be_mirrored() -> None:
    assert [type(one) for one in made(folder=None)] == [Console]
    with pytest.raises(UserError, match="mirrors the run's folder"):
        made(*MIRRORED, folder=None)


@pytest.mark.parametrize(
    ("mode", "environment", "online"),
    [
        pytest.param("null", {}, False, id="no-key"),
        pytest.param("null", {"WANDB_API_KEY": API_KEY}, True, id="key"),
        pytest.param(
            "null", {"WANDB_API_KEY": API_KEY, "WANDB_MODE": "offline"}, False, id="environment"
        ),
        pytest.param("null", {"WANDB_MODE": "ONLINE"}, True, id="in-capitals"),
        pytest.param("null", {"WANDB_MODE": "disabled"}, None, id="environment-disabled"),
        pytest.param("null", {"WANDB_MODE": "what"}, False, id="environment-unknown"),
        pytest.param("online", {"WANDB_MODE": "disabled"}, True, id="config-wins"),
        pytest.param("offline", {"WANDB_API_KEY": API_KEY}, False, id="config-offline"),
    ],
)
def test_whether_a_run_is_online(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    environment: dict[str, str],
    online: bool | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    last = made("tracking=wandb", f"tracking.wandb.mode={mode}", folder=tmp_path)[-1]
    assert (last._online if isinstance(last, WandB) else None) is online


@pytest.mark.parametrize("console", ["plain", "off"])
def test_sentences_go_where_the_run_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: str
) -> None:
    mirror(f"tracking.console={console}", folder=tmp_path)._notify("W&B: something")
    heard = capsys.readouterr()
    stream, other = (heard.out, heard.err)[:: 1 if console == "plain" else -1]
    assert "W&B: something" in stream
    assert other == ""


def test_pressing_stop_asks_the_run_to_leave(tmp_path: Path) -> None:
    config = perdure.compose(f"timestamp={TIMESTAMP}", *MIRRORED)
    stop = StopFlag()
    *_, last = make_recorders(typed(config), tmp_path, None, None, stop)
    assert isinstance(last, WandB)
    last._on_stop()
    assert stop() == "stopped from its W&B page"


# --- which run of W&B -----------------------------------------------------------------------------


def test_a_new_run_is_named_for_what_it_trains(tmp_path: Path) -> None:
    record = mirror("model=er", "buffer.size=200", "seed=3", folder=tmp_path).record
    assert record.name == "er_seq-mnist_200_s3"
    assert (record.project, record.entity, record.group) == ("perdure", None, None)
    assert (record.job_type, record.tags, record.inputs) == ("train", [], [])
    assert record.id.startswith(f"{TIMESTAMP}-")
    assert mirror("model=sgd", folder=tmp_path).record.name == "sgd_seq-mnist_0_s0"


def test_a_new_run_is_called_as_the_user_says(tmp_path: Path) -> None:
    options = {
        "name": "n",
        "group": "g",
        "job_type": "j",
        "entity": "e",
        "project": "p",
        "notes": "w",
    }
    overrides = [f"tracking.wandb.{key}={value}" for key, value in options.items()]
    record = mirror(*overrides, "tracking.wandb.tags=[a,b]", folder=tmp_path, sweep="s").record
    assert {key: getattr(record, key) for key in options} == options
    assert record.tags == ["a", "b"]


def test_the_jobs_of_a_sweep_are_one_group(tmp_path: Path) -> None:
    made = [mirror(folder=tmp_path / str(job), sweep=TIMESTAMP).record for job in (0, 1)]
    assert [record.group for record in made] == [TIMESTAMP, TIMESTAMP]
    assert [record.id.rpartition("-")[0] for record in made] == [f"{TIMESTAMP}-0", f"{TIMESTAMP}-1"]


def source(folder: RunFolder, **facts: Any) -> RestorePoint:
    path = folder.checkpoint(10, "task")
    return RestorePoint(path, files.read(path), **facts)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that W&B knows as `r1`."""
    made = RunFolder(tmp_path / "run")
    Record("r1", "theirs", entity="team").save(made.path)
    return made


THERE = ("tracking.wandb.project=theirs", "tracking.wandb.entity=team")


def test_a_run_resumed_in_its_folder_is_the_same_run(folder: RunFolder) -> None:
    resumed = source(folder)
    found = mirror(*THERE, folder=folder.path, source=resumed)
    assert found.record == Record("r1", "theirs", entity="team")
    found.load_state_dict({"id": "r0", "name": "n"})
    # The folder may have been sent as a new run since the checkpoint was written.
    assert (found.record.id, found.record.name) == ("r1", "n")
    (folder.path / "wandb.json").unlink()
    found = mirror(folder=folder.path, source=resumed)
    found.load_state_dict({"id": "r0"})
    assert found.record.id == "r0"


@pytest.mark.parametrize("typed", [(), THERE[1:], ("tracking.wandb.project=mine", THERE[1])])
def test_a_folder_does_not_say_where_rows_are_sent(
    folder: RunFolder, typed: tuple[str, ...]
) -> None:
    with pytest.raises(
        UserError, match=r"add tracking.wandb.entity=team tracking.wandb.project=theirs"
    ):
        mirror(*typed, folder=folder.path, source=source(folder))


def test_an_entity_that_nobody_typed_is_the_key_s_own(folder: RunFolder) -> None:
    found = mirror(THERE[0], folder=folder.path, source=source(folder))
    assert (found.record.id, found.record.entity) == ("r1", None)


def test_a_run_that_died_before_its_first_checkpoint_is_the_same_run(folder: RunFolder) -> None:
    assert mirror(*THERE, "checkpoint.resume=auto", folder=folder.path).record.id == "r1"
    assert mirror(folder=folder.path).record.id != "r1"


ARTIFACT = "team/theirs/ckpt-r7:v3"


def test_a_run_that_is_rebuilt_on_another_machine_is_the_same_run(
    folder: RunFolder, tmp_path: Path
) -> None:
    """Wherever the key or the configuration would send a new one."""
    fetched = source(folder, home=tmp_path / "home", artifact=ARTIFACT, run_id="r7")
    record = mirror("tracking.wandb.project=mine", folder=tmp_path / "home", source=fetched).record
    assert (record.id, record.entity, record.project) == ("r7", "team", "theirs")
    assert record.inputs == []


def test_a_fork_of_an_artifact_used_it(folder: RunFolder, tmp_path: Path) -> None:
    forked = source(folder, fork=True, artifact=ARTIFACT, run_id="r7")
    found = mirror(folder=tmp_path / "fork", source=forked)
    assert found.record.inputs == [ARTIFACT]
    assert found.record.id.startswith(TIMESTAMP)
    found.load_state_dict({"id": "r7"})
    assert found.record.id.startswith(TIMESTAMP)


def test_a_fork_of_a_file_that_was_sent_used_that_artifact(
    folder: RunFolder, tmp_path: Path
) -> None:
    forked = source(folder, fork=True)
    assert mirror(folder=tmp_path / "fork", source=forked).record.inputs == []
    sent = {"sha256": digest(forked.path), "artifact": ARTIFACT, "aliases": ["latest"]}
    Record("r1", "theirs", sent=[sent]).save(folder.path)
    assert mirror(folder=tmp_path / "fork", source=forked).record.inputs == [ARTIFACT]


def test_nothing_but_a_run_that_is_online_needs_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an error
    made(folder=tmp_path)
    made("tracking=wandb", folder=tmp_path)
    mirror(folder=tmp_path)
