"""A run's folder made by hand, small and the same each time, to be mirrored at W&B."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from wandb_server import StandIn

from perdure.checkpoint.core import format as files
from perdure.io import atomic
from perdure.wandb import record as records
from perdure.wandb import rows
from perdure.wandb.mirror import Mirror
from perdure.wandb.record import Record
from perdure.wandb.session import Session, SessionLimits
from perdure.wandb.upload_queue import UploadQueue

PROJECT = "cl"
STEPS = 10
"""Steps of a task."""
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c"
    "63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
"""A picture."""


@pytest.fixture
def hurried(wandb_server: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The server, to a client that tries again soon, and seldom; and so does the mirror."""
    for kind in ("GRAPHQL", "FILE_TRANSFER", "FILE_STREAM"):
        for limit in ("MIN", "MAX"):  # less than a second counts as none set
            monkeypatch.setenv(f"WANDB_X_{kind}_RETRY_WAIT_{limit}_SECONDS", "1")
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    monkeypatch.setattr("perdure.wandb.session._RETRIES", 1)
    monkeypatch.setattr("perdure.wandb.session.REQUEST_SECONDS", 2)
    monkeypatch.setattr("perdure.wandb.mirror._PAUSES", (0.0,))
    return wandb_server


def line(at: int) -> dict[str, Any]:
    """What is logged at a step; all of it depends on the step alone."""
    place = {"task": (at - 1) // STEPS, "epoch": 0, "step": at, "global_step": at}
    return {"kind": "step", **place, "loss": 1 / at, "lr": 0.1, "clock": {"time": 0.0}}


def lines(until: int, every: int = 1) -> list[dict[str, Any]]:
    """A whole metrics.jsonl: every so many steps a row, and what follows a task."""
    found = []
    for at in range(1, until + 1):
        found += [line(at)] if at % every == 0 else []
        if at % STEPS == 0:
            found += [_evaluated(at), _done(at)]
    return found


def orders(until: int, every: int = 1) -> list[int]:
    """What the server should have of it."""
    found = (rows.to_row(one) for one in lines(until, every))
    return [row[rows.ORDER] for row in found if row is not None]


def _evaluated(at: int) -> dict[str, Any]:
    place = {"task": at // STEPS - 1, "epoch": 1, "global_step": at}
    return {"kind": "evaluation", **place, "accuracy": _last(at), "clock": {"seconds": 0.0}}


def _done(at: int) -> dict[str, Any]:
    figures = {"average_accuracy": {k: sum(v) / len(v) for k, v in _last(at).items()}}
    task = at // STEPS - 1
    return {"kind": "task", "task": task, "global_step": at, **figures, "clock": {"seconds": 0.0}}


def _last(at: int) -> dict[str, list[float]]:
    return {name: matrix[-1] for name, matrix in _matrix(at // STEPS).items()}


def _matrix(tasks: int) -> dict[str, list[list[float]]]:
    return {"class_il": [[0.9 - 0.1 * (i - j) for j in range(i + 1)] for i in range(tasks)]}


def results(at: int, status: str = "finished") -> dict[str, Any]:
    """What results.json holds at a step."""
    tasks = at // STEPS
    average = {k: sum(v[-1]) / len(v[-1]) for k, v in _matrix(tasks).items() if v}
    return {
        **{"model": "er", "dataset": "seq-mnist", "seed": 0, "buffer_size": 500},
        **{"timestamp": "20261122-072200", "status": status, "n_tasks": 5},
        **{"tasks_done": tasks, "global_step": at, "accuracy_matrix": _matrix(tasks)},
        **{"average_accuracy": average, "seconds": {"training": 1.0}},
    }


class RunFolder:
    """A run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def log(self, found: Iterable[dict[str, Any]]) -> None:
        """Write metrics.jsonl anew."""
        text = "".join(json.dumps(one) + "\n" for one in found)
        (self.path / "metrics.jsonl").write_text(text)

    def write(self, at: int, status: str = "finished", every: int = 1) -> dict[str, Any]:
        """Both as they stand at a step; returns the results."""
        self.log(lines(at, every))
        return self.note(at, status)

    def note(self, at: int, status: str = "finished") -> dict[str, Any]:
        """Write results.json anew."""
        found = results(at, status)
        (self.path / "results.json").write_text(json.dumps(found))
        return found

    def checkpoint(self, at: int, kind: str = "step", best: bool = False) -> Path:
        """Commit a checkpoint, as a task's end, as the best epoch or as a rolling one."""
        task = (at - 1) // STEPS
        names = {"task": f"{task}.pt", "epoch": f"task{task}.{at}_full.pth"}
        path = self.path / "checkpoints" / names.get(kind, f"step-{at}_full.pth")
        path.parent.mkdir(exist_ok=True)
        position = {"task": task, "epoch": 0, "step": at % STEPS, "global_step": at}
        state = {
            "model": {"w": torch.full((50,), float(at))},
            "position": position,
            "results": {"recorders": {"files": {"metrics_bytes": at}}, "summary": {}},
        }
        about = {"kind": kind, "stage": f"task{task}", "epoch": 1, "position": position}
        files.write(path, state, {**about, "value": 0.5})
        if best:
            atomic.update_link(path.with_name("best_full.pth"), path)
        return path


def open_mirror(folder: RunFolder, messages: list[str] | None = None, finish: float = 10) -> Mirror:
    """A new process's mirror of the folder, opened."""
    record = records.load(folder.path) or Record("r1", PROJECT)
    session = Session(record, folder.path, SessionLimits(10, finish))
    shown = [] if messages is None else messages
    mirror = Mirror(folder.path, record, session, UploadQueue(folder.path), shown.append)
    mirror.open()
    return mirror
