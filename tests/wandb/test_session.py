"""The one place that calls the client: what it opens, and its errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mirrored import PROJECT
from wandb_server import API_KEY, ENTITY, StandIn

from perdure.wandb.record import Record
from perdure.wandb.session import (
    NO_KEY,
    MirrorError,
    Session,
    SessionLimits,
    explain,
    key_configured,
)

pytestmark = pytest.mark.process

LIMITS = SessionLimits(start=2, finish=2)


def session(folder: Path, run: str = "r1", **facts: object) -> Session:
    return Session(Record(run, PROJECT, **facts), folder, LIMITS)  # type: ignore[arg-type]


def refused(folder: Path) -> str:
    with pytest.raises(MirrorError) as caught:
        session(folder).open()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_opened_as_its_record_says(hurried: StandIn, tmp_path: Path) -> None:
    facts = {"name": "n", "group": "g", "job_type": "j", "tags": ["a", "b"], "notes": "why"}
    opened = session(tmp_path, config={"buffer/size": 500, "seed": 0}, **facts)
    assert opened.open() == -1
    assert (opened.record.entity, opened.record.project) == (ENTITY, PROJECT)
    assert opened.record.url is not None
    assert opened.record.url.startswith(hurried.url)
    opened.close()
    kept = hurried.run(PROJECT, "r1")
    assert (kept.displayName, kept.group, kept.jobType) == ("n", "g", "j")
    assert (kept.tags, kept.notes) == (["a", "b"], "why")
    assert kept.config_values() == {"buffer/size": 500, "seed": 0}


def test_two_runs_of_one_process_are_two(hurried: StandIn, tmp_path: Path) -> None:
    first, second = session(tmp_path / "a", "r1"), session(tmp_path / "b", "r2")
    first.open()
    second.open()
    for opened, loss in ((first, 1.0), (second, 2.0)):
        opened.log({"train/loss": loss, "global_step": 1, "order": 4})
    first.close()
    second.log({"train/loss": 3.0, "global_step": 2, "order": 8})
    second.close()
    assert hurried.values(PROJECT, "r1", "train/loss") == [1]
    assert hurried.values(PROJECT, "r2", "train/loss") == [2, 3]


@pytest.mark.parametrize(
    ("status", "preempted", "state", "code"),
    [
        pytest.param(0, False, "finished", 0, id="finished"),
        pytest.param(1, False, "failed", 1, id="failed"),
        pytest.param(1, True, "preempted", 1, id="interrupted"),
    ],
)
def test_the_page_shows_how_it_ended(
    hurried: StandIn, tmp_path: Path, status: int, preempted: bool, state: str, code: int
) -> None:
    opened = session(tmp_path)
    opened.open()
    opened.close(status, preempted)
    opened.close(status, preempted)  # there is nothing to close any more
    kept = hurried.run(PROJECT, "r1")
    assert (kept.state, kept.exitcode) == (state, code)


def test_a_fork_shows_what_it_started_from(hurried: StandIn, tmp_path: Path) -> None:
    first = session(tmp_path / "a", "r1")
    first.open()
    file = tmp_path / "file"
    file.write_text("weights")
    artifact = first.upload("ckpt-r1", "model", [file], ["latest"], {"file": "file"})
    first.close()
    assert artifact == f"{ENTITY}/{PROJECT}/ckpt-r1:v0"
    fork = session(tmp_path / "b", "r2", inputs=[artifact])
    fork.open()
    fork.close()
    (used,) = hurried.run(PROJECT, "r2").inputs
    assert used.read("file") == b"weights"
    assert [run.name for run in used.users] == ["r2"]


# --- what goes wrong ------------------------------------------------------------------------------


def test_without_a_key_the_server_is_not_even_asked(
    hurried: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert refused(tmp_path) == NO_KEY
    assert hurried.log == []


def test_a_wrong_key_is_reported(
    hurried: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "9" * 40)
    assert refused(tmp_path) == "the run could not be opened: the server does not know this API key"


def test_no_permission_is_reported(hurried: StandIn, tmp_path: Path) -> None:
    hurried.deny(project=PROJECT)
    assert refused(tmp_path) == "the run could not be opened: the API key has no permission there"


def test_an_entity_that_is_none_is_reported(hurried: StandIn, tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="entity nobody not found"):
        session(tmp_path, entity="nobody").open()


def test_a_server_that_is_down_is_reported_and_the_same_run_opened_later(
    hurried: StandIn, tmp_path: Path
) -> None:
    hurried.down()
    assert refused(tmp_path) == "the run could not be opened: the server does not answer"
    hurried.up()
    later = session(tmp_path)
    later.open()
    later.close()
    assert hurried.run(PROJECT, "r1").state == "finished"


def test_errors_of_the_server_are_reported(hurried: StandIn, tmp_path: Path) -> None:
    hurried.fault("*", status=500)
    assert refused(tmp_path) == "the run could not be opened: the server answers with errors"


def test_nothing_can_be_sent_after_the_end(hurried: StandIn, tmp_path: Path) -> None:
    opened = session(tmp_path)
    opened.open()
    opened.close()
    with pytest.raises(MirrorError, match="a row could not be handed over"):
        opened.log({"order": 1})


# --- words ----------------------------------------------------------------------------------------

KEY, PERMISSION = "the server does not know this API key", "the API key has no permission there"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param('returned error 401: {"data":null}', KEY, id="401"),
        pytest.param("401 Client Error: Unauthorized for url: x", KEY, id="401-of-a-download"),
        pytest.param("user is not logged in", KEY, id="not-logged-in"),
        pytest.param('returned error 403: {"data":null}', PERMISSION, id="403"),
        pytest.param("403 Client Error: Forbidden for url: x", PERMISSION, id="403-of-a-download"),
        pytest.param("permission denied", PERMISSION, id="permission"),
        pytest.param("ckpt-20261122-140312-401: too large.", "ckpt-20261122-140312-401: too large",
                     id="a-run-with-401-in-its-name"),
        pytest.param("run 403 is odd", "run 403 is odd", id="a-run-called-403"),
        pytest.param("while retrying: HTTP 503: x", "the server answers with errors", id="503"),
        pytest.param("dial tcp: connection refused", "the server does not answer", id="refused"),
        pytest.param("\n  the first\nthe second", "the first", id="lines"),
        pytest.param("", "ValueError", id="no-words"),
        pytest.param("x" * 900, "x" * 300, id="endless"),
    ],
)  # fmt: skip
def test_errors_are_explained(error: str, words: str) -> None:
    assert explain(ValueError(error)) == words


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "machine", "found"),
    [
        pytest.param({"WANDB_API_KEY": API_KEY}, None, True, id="key"),
        pytest.param({"WANDB_IDENTITY_TOKEN_FILE": "/token"}, None, True, id="token"),
        pytest.param({}, None, False, id="nothing"),
        pytest.param({"WANDB_API_KEY": ""}, None, False, id="empty"),
        pytest.param({}, "127.0.0.1:{port}", True, id="netrc"),
        pytest.param({}, "example.org", False, id="netrc-of-another-host"),
        pytest.param({}, "127.0.0.1:1", False, id="netrc-of-another-port"),
        pytest.param({}, "broken\nmacine", False, id="netrc-that-is-none"),
    ],
)
def test_a_key_is_found_where_the_client_looks(
    wandb_server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    machine: str | None,
    found: bool,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if machine is not None:
        write_netrc(tmp_path / ".netrc", machine.format(port=wandb_server.port))
    assert key_configured() is found
    assert wandb_server.log == []


def write_netrc(path: Path, machine: str, key: str = API_KEY) -> None:
    path.write_text(f"machine {machine}\n login user\n password {key}\n")
    path.chmod(0o600)


def test_a_key_of_the_old_host_is_one_for_the_new(
    wandb_server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write_netrc(tmp_path / "netrc", "api.wandb.ai")
    assert key_configured()


def test_a_run_is_opened_with_the_key_of_a_netrc_file(
    hurried: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_X_DISABLE_VIEWER", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write_netrc(tmp_path / "netrc", f"127.0.0.1:{hurried.port}")
    assert key_configured()  # whoever asks first has the client read its environment
    assert os.environ["WANDB_X_DISABLE_VIEWER"] == "true"
    opened = session(tmp_path)
    opened.open()
    opened.close()
    assert hurried.run(PROJECT, "r1").state == "finished"


def test_a_netrc_file_with_a_broken_key_is_reported_when_it_is_used(
    hurried: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write_netrc(tmp_path / "netrc", f"127.0.0.1:{hurried.port}", "short")
    assert key_configured()
    assert "40+ characters" in refused(tmp_path)
