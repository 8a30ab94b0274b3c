"""Folders of runs as a sweep leaves them, made of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


def triangle(n_tasks: int, end: float) -> list[list[float]]:
    """Each task starts at 0.9 and falls evenly, so that task 0 ends at `end`."""
    fall = (0.9 - end) / max(1, n_tasks - 1)
    return [[0.9 - fall * (i - j) for j in range(i + 1)] for i in range(n_tasks)]


def write_run(
    folder: Path,
    model: str = "er",
    seed: int = 0,
    end: float = 0.5,
    n_tasks: int = 3,
    typed: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    **results: Any,
) -> Path:
    """A finished run's folder; `results` replaces what its results.json holds."""
    (folder / ".hydra").mkdir(parents=True)
    words = [f"model={model}", f"seed={seed}", *typed]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    composed = {
        "seed": seed,
        "model": {"name": model},
        "addon": {"name": None},
        "dataset": {"name": "seq-mnist", "seed": seed, "class_order": None, "epochs": 1},
        "buffer": {"size": 200},
        "optimizer": {"_target_": "perdure.training.optim.SGD", "lr": 0.1},
        **(config or {}),
    }
    (folder / "config.json").write_text(json.dumps(composed))
    rows = triangle(n_tasks, end)
    lost = sum(max(r[j] for r in rows[j:-1]) - rows[-1][j] for j in range(n_tasks - 1))
    content = {
        "model": model,
        "dataset": "seq-mnist",
        "seed": seed,
        "status": "finished",
        "training": "continual",
        "scenario": "class-incremental",
        "split": "test",
        "n_tasks": n_tasks,
        "tasks_done": n_tasks,
        "class_names": ["cat", "dog", "owl"],
        "task_classes": [[0], [1], [2]],
        "accuracy_matrix": {"class_il": rows},
        "average_accuracy": {"class_il": sum(rows[-1]) / n_tasks},
        "forgetting": {"class_il": lost / max(1, n_tasks - 1)},
        "confusion": {"classes": [0, 1, 2], "counts": [[8, 1, 1], [0, 9, 1], [0, 0, 10]]},
        "cost": {"bytes": {"exemplars": 2000 + 1000 * (model == "derpp"), "total": 9000},
                 "flops": 5_000_000_000},
        "seconds": {"total": 10.0 + seed},
        "environment": {"torch": "2.9", "device": "cpu"},
        **results,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def make_run() -> Callable[..., Path]:
    """`write_run`."""
    return write_run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """er and derpp, seeds 0 and 1; derpp keeps more and has a larger buffer."""
    for job, (model, seed, end) in enumerate(
        [("er", 0, 0.3), ("er", 1, 0.4), ("derpp", 0, 0.6), ("derpp", 1, 0.7)]
    ):
        write_run(tmp_path / "sweep" / str(job), model, seed, end)
    return tmp_path / "sweep"
