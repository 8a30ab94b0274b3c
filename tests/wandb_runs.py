"""Runs that W&B mirrors, in processes on machines of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from process import ROOT, command, environment
from wandb_server.server import StandIn

PROJECT = "cl"
MIRRORED = ("tracking=wandb", f"tracking.wandb.project={PROJECT}")
LONG = ("checkpoint.save=true", "dataset.iterations=2000", "training.log_every=10")
SHORT = ("dataset.stop_after=2", "dataset.iterations=100", "training.log_every=10")
SAVED = (*SHORT, "checkpoint.save=true", "tracking.wandb.finish_seconds=20")


def machine(server: StandIn, home: Path, **env: str) -> dict[str, str]:
    """The environment of a machine that has never seen another one's files."""
    home.mkdir(parents=True, exist_ok=True)
    return {**server.env(home / "client"), "PERDURE_CACHE": str(home / "cache"), **env}


def start(home: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=home,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def sync(server: StandIn, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "sync_wandb.py"), *arguments],
        cwd=home,
        env={**environment(), **machine(server, home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "wandb.json").read_text())
    return record


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def versions(server: StandIn, run_id: str, kind: str = "ckpt") -> dict[str, str]:
    """Alias → version of the run's artifact."""
    if (server.root.projects.get(("tester", PROJECT)) is None) or (
        f"{kind}-{run_id}" not in server.project(PROJECT).sequences
    ):
        return {}
    held = server.project(PROJECT).sequences[f"{kind}-{run_id}"].by_alias
    return {alias: f"v{artifact.versionIndex}" for alias, artifact in held.items()}


def wandb_lines(done: subprocess.CompletedProcess[str] | str) -> list[str]:
    text = done if isinstance(done, str) else done.stdout
    return [line.strip() for line in text.splitlines() if "W&B:" in line]


def require_every_row_once(server: StandIn, folder: Path) -> None:
    """The server's history is that of metrics.jsonl, in order, whatever happened on the way."""
    run_id = record_of(folder)["id"]
    here = [row for row in rows_of(folder) if row["kind"] == "step"]
    steps = server.values(PROJECT, run_id, "global_step", having="train/loss")
    assert steps == [row["global_step"] for row in here]
    losses = server.values(PROJECT, run_id, "train/loss")
    assert losses == [row["loss"] for row in here]
    tasks = [row["global_step"] for row in rows_of(folder) if row["kind"] == "task"]
    name = "after_task/class_il/avg_acc"
    assert server.values(PROJECT, run_id, "global_step", having=name) == tasks
    orders = server.values(PROJECT, run_id, "order")
    assert orders == sorted(set(orders))
    matrix = server.values(PROJECT, run_id, "accuracy_matrix/class_il")[-1]
    assert matrix["nrows"] == len(tasks)


def server_steps(server: StandIn, folder: Path) -> list[int]:
    return server.values(PROJECT, record_of(folder)["id"], "global_step", having="train/loss")
