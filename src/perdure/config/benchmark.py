"""Validate a benchmark (conf/dataset/): its source, scenario and transform, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from perdure.config.folder import SHARED, options
from perdure.config.overrides import parse
from perdure.config.task_sizes import refuse_misplaced
from perdure.errors import UserError

PARTS = ("source", "scenario", "transform")
"""Groups whose options are set below `dataset`."""

_REQUIRED = ("name", *PARTS, "n_tasks", "batch_size", "seed")


def require_benchmark(config: DictConfig) -> None:
    """Refuse a benchmark that lacks a key, or whose source, scenario or transform is no class.

    Raises:
        UserError: names the key and what it must be.
    """
    for key in _REQUIRED:
        if OmegaConf.is_missing(config.dataset, key):
            hint = f" or choose {key}={'|'.join(options(key))}" if key in PARTS else ""
            raise UserError(f"dataset.{key}: is not set; set it in the benchmark's file{hint}")
    for key in PARTS:
        node = config.dataset[key]
        if not OmegaConf.is_dict(node) or not isinstance(node.get("_target_"), str):
            raise UserError(
                f"dataset.{key}={node}: must name a class (dataset.{key}._target_=…); "
                f"{key}={'|'.join(options(key))} chooses an option"
            )
    refuse_misplaced(config.dataset.scenario)


def require_effect(hydra: Any) -> None:
    """Refuse a choice that is no benchmark, and options that the benchmark's own file would undo.

    Args:
        hydra: Hydra's part of the configuration.

    Raises:
        UserError: names the choice and what to type instead.
    """
    benchmark = str(hydra.runtime.choices.get("dataset"))
    if benchmark == SHARED:
        raise UserError(
            f"dataset={SHARED}: is what all benchmarks share and none itself; choose "
            + ", ".join(options("dataset"))
        )
    for typed in map(parse, hydra.overrides.task):
        if typed.key in PARTS and typed.key in _inlined(hydra, benchmark):
            raise UserError(
                f"{typed.text}: the file of dataset={benchmark} sets dataset.{typed.key} itself, "
                f"over any option; let it choose one (override /{typed.key}: …), or type "
                f"dataset.{typed.key}._target_=…"
            )


def _inlined(hydra: Any, benchmark: str) -> set[str]:
    """The parts that the file of a benchmark sets by naming their class."""
    return {
        key
        for content in _contents(hydra, benchmark)
        for key in PARTS
        if isinstance(node := content.get(key), Mapping) and "_target_" in node
    }


def _contents(hydra: Any, benchmark: str) -> Iterator[Mapping[str, Any]]:
    """What the file that Hydra has read for a benchmark sets, whatever its package."""
    for source in hydra.runtime.config_sources:
        path = Path(source.path) / "dataset" / f"{benchmark}.yaml"
        if source.schema == "file" and path.is_file():
            content = yaml.safe_load(path.read_text())
            for node in (content, content.get("dataset")):
                if isinstance(node, Mapping):
                    yield node
            return
