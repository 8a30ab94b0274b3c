"""Runs of a project of W&B, read from the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mirrored import PROJECT, hurried
from runs_of import make_run
from wandb_server import ENTITY, StandIn

from perdure.analysis.groups import grouped
from perdure.analysis.runs import Run, read, read_run
from perdure.errors import UserError
from perdure.wandb.record import Record
from perdure.wandb.rows import flat_config, results_of, summary
from perdure.wandb.session import Session, SessionLimits

pytestmark = pytest.mark.process

__all__ = ["hurried"]

ADDRESS = f"wandb://{ENTITY}/{PROJECT}"
RESULTS = {
    "model": "er", "seed": 0, "status": "finished", "tasks_done": 5, "global_step": 9,
    "average_accuracy": {"class_il": 0.5, "task_il": 0.75},
    "forgetting": {"class_il": 0.25, "task_il": None},
    "backward_transfer": {"class_il": -0.25},
    "cost": {
        "parameters": {"trainable": 5}, "bytes": {"total": 70, "exemplars": 30}, "flops": 12,
        "examples": {"trained": 3, "replayed": 2}, "clock": {"peak_memory_bytes": 100},
    },
    "seconds": {"total": 2.5, "training": 1.0}, "cpu_seconds": {"total": 1.5},
}  # fmt: skip


def test_what_was_sent_can_be_read_back() -> None:
    sent = summary(RESULTS, {"after_task/class_il/avg_acc": 0.9})
    local = Run(Path(), "finished", results=RESULTS)
    assert Run(Path(), "finished", results=results_of(sent)).metrics == local.metrics
    assert len(local.metrics) == 13


def send(server: StandIn, folder: Path, run: str, **more: Any) -> None:
    results = json.loads((folder / "results.json").read_text())
    config = flat_config(json.loads((folder / "config.json").read_text()), results)
    session = Session(Record(run, PROJECT, config=config, **more), folder, SessionLimits(5, 5))
    session.open()
    session.update_summary(summary({**results, "tasks_done": 5}, {}))
    session.close()


def test_runs_of_a_project_are_grouped_as_folders_are(hurried: StandIn, tmp_path: Path) -> None:
    for job, (model, seed) in enumerate([("er", 0), ("er", 1), ("si", 0)]):
        results = {"model": model, "seed": seed, "cost": RESULTS["cost"]}
        make_run(tmp_path / str(job), model, seed, accuracy=0.1 * job, results=results)
        send(hurried, tmp_path / str(job), f"r{job}")
    runs = read([ADDRESS])
    assert [run.status for run in runs] == ["finished"] * 3
    local = read_run(tmp_path / "1")
    assert runs[1].metrics == local.metrics
    assert runs[1].config == local.config
    groups = grouped(runs)
    assert [group.name for group in groups] == ["model=er", "model=si"]
    assert groups[0].values("average_accuracy.class_il") == {("0", "0"): 0.0, ("1", "1"): 0.1}


def test_what_cannot_be_read(hurried: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"wandb://{ENTITY}/nowhere: the project could not be read"):
        read([f"wandb://{ENTITY}/nowhere"])
    for address in ("wandb://x", "wandb://x/", "wandb://x/y/z:latest"):
        with pytest.raises(UserError, match="must be a project, wandb://entity/project"):
            read([address])
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match="no API key is configured"):
        read([ADDRESS])
