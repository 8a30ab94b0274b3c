"""Runs, history and resume, by the real client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wandb_server import StandIn
from wandb_server.clients import machine, on_machine, start, sync

pytestmark = pytest.mark.process

ENDLESS = """
import time
from wandb_server.clients import start
run = start(resume="allow")
for step in range(10**6):
    run.log({"global_step": step})
    time.sleep(0.01)
"""


def test_a_run_arrives_with_all_that_it_says(wandb_server: StandIn) -> None:
    config = {"method": {"name": "er"}, "seed": 1}
    who: dict[str, Any] = {"group": "g", "job_type": "train", "tags": ["t"]}
    with start(config=config, name="n", notes="why", **who) as run:
        for step in range(5):
            run.log({"loss": 1 / (step + 1), "global_step": step})
        run.log({"global_step": 5})
        run.summary["best"] = 0.5
    kept = wandb_server.run("cl", "r1")
    assert (kept.state, kept.exitcode) == ("finished", 0)
    assert (kept.group, kept.jobType, kept.tags) == ("g", "train", ["t"])
    assert (kept.displayName, kept.notes) == ("n", "why")
    assert kept.config_values() == config
    assert kept.summary()["best"] == 0.5
    assert wandb_server.values("cl", "r1", "global_step") == [*range(6)]
    assert wandb_server.values("cl", "r1", "global_step", having="loss") == [*range(5)]


def test_a_run_that_fails_says_so(wandb_server: StandIn) -> None:
    start().finish(exit_code=3)
    kept = wandb_server.run("cl", "r1")
    assert (kept.state, kept.exitcode) == ("failed", 3)


def test_resume_appends_without_a_gap(wandb_server: StandIn) -> None:
    with start(config={"a": 1}, tags=["t"]) as run:
        for step in range(5):
            run.log({"global_step": step})
    with start(resume="allow", config={"b": 2}) as run:
        assert (run.resumed, run.starting_step) == (True, 5)
        assert run.summary["global_step"] == 4
        for step in range(5, 8):
            run.log({"global_step": step})
    kept = wandb_server.run("cl", "r1")
    assert [row["_step"] for row in kept.rows()] == [*range(8)]
    assert kept.config_values() == {"a": 1, "b": 2}
    assert kept.tags == ["t"]


def test_resume_knows_which_runs_there_are(wandb_server: StandIn) -> None:
    import wandb

    with pytest.raises(wandb.errors.UsageError, match="does not exist"):
        start(resume="must")
    wandb.teardown()
    with start(resume="allow") as run:
        assert not run.resumed
    with pytest.raises(wandb.errors.UsageError, match="already exists"):
        start(resume="never")


def test_history_is_read_back(wandb_server: StandIn) -> None:
    import wandb

    with start(group="g") as run:
        for step in range(4):
            run.log({"global_step": step} if step % 2 else {"loss": step})
    read = wandb.Api().run("tester/cl/r1")
    assert [row["_step"] for row in read.scan_history()] == [0, 1, 2, 3]
    assert [row["global_step"] for row in read.scan_history(keys=["global_step"])] == [1, 3]
    assert (read.lastHistoryStep, read.state, read.group) == (3, "finished", "g")


def test_an_offline_run_arrives_by_sync(wandb_server: StandIn, tmp_path: Path) -> None:
    """Two parts of one run, as an interrupted and resumed job leaves them, then twice synced."""
    script = """
import sys, pathlib, wandb
first = int(sys.argv[1])
with wandb.init(project="cl", id="off", mode="offline", resume="allow", group="g", tags=["t"],
                config={"part": first}) as run:
    for step in range(first, first + 5):
        run.log({"global_step": step})
    pathlib.Path("model.bin").write_text(f"model {first}")
    artifact = wandb.Artifact("ckpt", "checkpoint")
    artifact.add_file("model.bin")
    run.log_artifact(artifact, aliases=[f"task-{first}"])
"""
    on_machine(wandb_server, tmp_path, script, "0")
    on_machine(wandb_server, tmp_path, script, "5")
    assert wandb_server.log == []
    sync(wandb_server, tmp_path)
    sync(wandb_server, tmp_path)
    kept = wandb_server.run("cl", "off")
    assert wandb_server.values("cl", "off", "global_step") == [*range(10)]
    assert (kept.group, kept.tags, kept.state) == ("g", ["t"], "finished")
    assert kept.config_values() == {"part": 5}
    assert [a.read("model.bin") for a in kept.outputs] == [b"model 0", b"model 5"]
    assert wandb_server.project("cl").sequences["ckpt"].by_alias["task-0"].versionIndex == 0


def test_a_killed_run_continues_where_the_server_is(wandb_server: StandIn, tmp_path: Path) -> None:
    with machine(wandb_server, tmp_path, ENDLESS):  # killed at the end
        wandb_server.wait_until(lambda: len(wandb_server.history("cl", "r1")) > 20)
    assert wandb_server.run("cl", "r1").state == "running"
    with start(resume="allow") as run:
        last = run.summary["global_step"]
        assert run.starting_step == last + 1
        for step in range(last + 1, last + 11):
            run.log({"global_step": step})
    assert wandb_server.values("cl", "r1", "global_step") == [*range(last + 11)]


def test_sync_of_a_killed_online_run_repeats_its_rows(
    wandb_server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of the client, not of the server: whoever mirrors may not rely on this."""
    monkeypatch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    with machine(wandb_server, tmp_path, ENDLESS):
        wandb_server.wait_until(lambda: len(wandb_server.history("cl", "r1")) > 150)
    before = wandb_server.values("cl", "r1", "global_step")
    sync(wandb_server, tmp_path, "--include-online")
    after = wandb_server.values("cl", "r1", "global_step")
    assert after[: len(before) + 1] == [*before, 0]
    assert any("step 0 comes after step" in problem for problem in wandb_server.problems)
    wandb_server.problems.clear()


def test_one_id_in_two_processes_is_a_problem(wandb_server: StandIn, tmp_path: Path) -> None:
    """Both write the rows from 0 on, as every rank of a job would do."""
    script = "import wandb; wandb.init(project='cl', id='r1').log({'a': 2})"
    with start() as run:
        on_machine(wandb_server, tmp_path, script)
        run.log({"a": 1})
    assert "row 0 was" in wandb_server.problems[0]
    assert "is overwritten by" in wandb_server.problems[0]
    wandb_server.problems.clear()
