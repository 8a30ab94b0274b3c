"""Run folders of a few small files, as finished runs leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def make_run(
    folder: Path,
    model: str,
    seed: int,
    *more: str,
    accuracy: float = 0.5,
    config: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
) -> None:
    """A finished run's files.

    Args:
        folder: where.
        model, seed, more: as typed.
        accuracy: average, class-IL.
        config: sections of the configuration that are different, merged into ours.
        results: entries of results.json that are different.
    """
    (folder / ".hydra").mkdir(parents=True)
    words = [f"model={model}", f"seed={seed}", "tracking.console=off", *more]
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    choices = {"hydra": {"runtime": {"choices": {"buffer": "reservoir", "model": model}}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(choices))
    composed: dict[str, Any] = {
        "seed": seed,
        "model": {"name": model},
        "addon": {"name": None},
        "dataset": {"name": "seq-mnist", "seed": seed, "class_order": None, "n_tasks": 5},
        "buffer": {"size": 200},
        "optimizer": {"lr": 0.1},
        "training": {"reset_optimizer": True, "log_every": 100},
    }
    for key, value in (config or {}).items():
        old = composed.get(key)
        composed[key] = {**old, **value} if isinstance(old, dict) else value
    (folder / "config.json").write_text(json.dumps(composed))
    found = {
        "status": "finished",
        "scenario": "class-incremental",
        "task_classes": [[0, 1], [2, 3]],
        "average_accuracy": {"class_il": accuracy, "task_il": None},
        "cost": {"bytes": {"total": 1000}, "flops": 7},
        "cpu_seconds": {"total": 2.5},
        **(results or {}),
    }
    (folder / "results.json").write_text(json.dumps(found))
