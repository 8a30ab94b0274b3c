"""Runs, history and resume, by the real client."""

from __future__ import annotations

from wandb_server import StandIn


def test_a_run_arrives_with_all_that_it_says(wandb_server: StandIn) -> None:
    import wandb

    config = {"method": {"name": "er"}, "seed": 1}
    who = {"group": "g", "job_type": "train", "tags": ["t"], "name": "n", "notes": "why"}
    with wandb.init(project="cl", id="r1", config=config, **who) as run:
        for step in range(5):
            run.log({"loss": 1 / (step + 1), "global_step": step})
        run.summary["best"] = 0.5
    kept = wandb_server.run("cl", "r1")
    assert (kept.state, kept.exitcode) == ("finished", 0)
    assert (kept.group, kept.jobType, kept.tags) == ("g", "train", ["t"])
    assert (kept.displayName, kept.notes) == ("n", "why")
    assert kept.config_values() == config
    assert kept.summary()["best"] == 0.5
    assert wandb_server.values("cl", "r1", "global_step", having="loss") == [*range(5)]
