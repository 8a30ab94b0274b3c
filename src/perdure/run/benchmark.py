"""A benchmark from its configuration: arrays and the keys of `dataset` become tasks."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from perdure.config.build import build, locate
from perdure.config.schema import DatasetConfig
from perdure.config.task_sizes import KEYS
from perdure.datasets.arrays import Arrays
from perdure.datasets.corruption import Corruption
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError


def make_tasks(dataset: DatasetConfig, arrays: Arrays, device: torch.device) -> Scenario:
    """The tasks that the scenario of `dataset` makes of `arrays`, on `device`.

    Raises:
        UserError: a key is set that the scenario's class does not take, or a value is wrong.
    """
    corruption = Corruption(dataset.noise.kind, dataset.noise.rate, dataset.imbalance)
    changed = corruption != Corruption()
    optional: dict[str, Any] = {key: getattr(dataset, key) for key in KEYS}
    optional["corruption"] = corruption if changed else None
    _require_taken(dataset, {key for key, value in optional.items() if value is not None})
    benchmark: Scenario = build(
        dataset.scenario,
        "dataset.scenario",
        arrays,
        n_tasks=dataset.n_tasks,
        seed=dataset.seed,
        validation=dataset.validation,
        class_order=dataset.class_order,
        device=device,
        **{key: value for key, value in optional.items() if value is not None},
    )
    return benchmark


def _require_taken(dataset: DatasetConfig, keys: set[str]) -> None:
    """Refuse keys that the scenario's class would not get."""
    target = locate(dataset.scenario["_target_"], "dataset.scenario")
    parameters = inspect.signature(target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    for key in sorted(keys - {p.name for p in parameters}):
        if key == "corruption":
            raise UserError(
                f"dataset.noise, dataset.imbalance: {target.__name__} does not take a corruption "
                "of its training examples; leave them as they are by default"
            )
        raise UserError(
            f"dataset.{key}={getattr(dataset, key)}: {target.__name__} has no tasks of so many "
            "classes; must be null"
        )
