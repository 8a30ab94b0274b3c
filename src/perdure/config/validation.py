"""Checks of a configuration that need nothing heavy imported: ranges, and what goes together."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from perdure.config.benchmark import require_benchmark
from perdure.config.rules import RULES, check_stop_after
from perdure.config.schema import (
    Config,
    Mode,
    NoiseConfig,
    Parallel,
    Precision,
    TrackingConfig,
    TrainingConfig,
    WandbConfig,
)
from perdure.config.task_sizes import check_epochs, check_sizes
from perdure.errors import UserError
from perdure.ranks import environment, shards

_LONGEST = 160
"""Bytes of a name; file systems take 255 of a file name, and numbers and endings are added."""


def validate(config: DictConfig) -> None:
    """Refuse values out of range and combinations that make no sense.

    Raises:
        UserError: names the key, its value, and what would be accepted.
    """
    _check_keys(config, Config, "")
    require_benchmark(config)
    for key, rule in RULES.items():
        rule.check(key, OmegaConf.select(config, key))
    dataset = config.dataset
    check_sizes(dataset)
    check_epochs(dataset.epochs, dataset.n_tasks, config.training.mode is Mode.joint)
    check_noise(dataset.noise)
    check_stop_after(dataset.stop_after, dataset.n_tasks, dataset.name)
    order = dataset.class_order
    if order is not None and order != "random" and not isinstance(order, ListConfig):
        raise UserError(
            f"dataset.class_order={order}: must be null, random, or a list of class numbers"
        )
    _check_map(config.checkpoint.map)
    _check_wandb(config)
    names = ["model.name", "dataset.name"]
    names += ["addon.name"] if OmegaConf.select(config, "addon._target_") is not None else []
    # Looked at only once it is fixed: asking for it earlier would settle it.
    names += [] if OmegaConf.is_interpolation(config, "timestamp") else ["timestamp"]
    for key in names:
        require_component(key, OmegaConf.select(config, key))
    if config.checkpoint.name:
        require_component("checkpoint.name", config.checkpoint.name)
    _check_stem([config.checkpoint.name, *(OmegaConf.select(config, key) for key in names)])
    _check_processes(config)
    _check_model(config)


def check_noise(noise: DictConfig | NoiseConfig) -> None:
    """Refuse a rate of wrong labels without their kind, and a kind without its rate.

    Raises:
        UserError: names the key that is missing.
    """
    if noise.rate and noise.kind is None:
        raise UserError(
            f"dataset.noise.rate={noise.rate}: give dataset.noise.kind too, symmetric or asymmetric"
        )
    if noise.kind is not None and not noise.rate:
        raise UserError(
            f"dataset.noise.kind={noise.kind.name}: give dataset.noise.rate too, the part of the "
            "training labels that are wrong"
        )


def _check_map(value: Any) -> None:
    # Any in the schema: Hydra cannot fill an empty dict[str, str] from the command line.
    if value is None:
        return
    texts = [*value.keys(), *value.values()] if isinstance(value, DictConfig) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"checkpoint.map={value}: must be null, or name modules of the network for those in "
            "the file, as in {encoder: backbone, classifier: backbone.head}"
        )


def _check_stem(parts: list[str]) -> None:
    if sum(len(part.encode()) for part in parts) > _LONGEST:
        raise UserError(
            f"checkpoint.name, model.name, dataset.name: {', '.join(parts)} are together longer "
            f"than {_LONGEST} bytes, and they make the names of files"
        )


def require_component(key: str, value: Any, origin: str | None = None) -> str:
    """`value`, where it can be a part of file names.

    Args:
        key: which key of the configuration it is.
        value: of whatever type.
        origin: the file that it was read from, if it was not given by the user.

    Raises:
        UserError: it would lead elsewhere, or is longer than a name may be.
    """
    where = "" if origin is None else f" (in {origin})"
    if (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value.encode()) <= _LONGEST
        and not value.startswith(".")
        and not set(value) & set("/\\")
    ):
        return value
    shown = str(value)[:80]
    shown = shown if shown.isprintable() else repr(shown)
    raise UserError(
        f"{key}={shown}{where}: is a part of file names, so it must have 1 to "
        f"{_LONGEST} bytes, no / or \\, no control characters, and no dot at its start"
    )


def _check_wandb(config: DictConfig) -> None:
    wandb = config.tracking.wandb
    if wandb is None:
        return
    for key, bad in (("project", "/\\#?%:"), ("entity", "/\\#?%: ")):
        value = wandb[key]
        if value is not None and (not value or set(value) & set(bad)):
            raise UserError(
                f"tracking.wandb.{key}={value}: must not be empty or hold any of {' '.join(bad)}"
            )


def _check_keys(node: DictConfig, schema: type, prefix: str) -> None:
    """Refuse keys that `+key=value` added beside the schema's; nothing is silently ignored."""
    known = {f.name: f.default_factory for f in fields(schema)}
    for key in map(str, node):
        if key not in known and f"{prefix}{key}" != "hydra":
            raise UserError(
                f"{prefix}{key}: there is no such key; perdure train --cfg job lists all"
            )
        part = known.get(key)
        if isinstance(part, type) and is_dataclass(part):
            _check_keys(node[key], part, f"{prefix}{key}.")
    if schema is TrackingConfig and node.wandb is not None:
        _check_keys(node.wandb, WandbConfig, f"{prefix}wandb.")


def _check_processes(config: DictConfig) -> None:
    training, size = config.training, environment.world_size()
    if training.shards is not None:
        shards.check(training.shards, size)
        if training.sync_batchnorm:
            shards.check_sync_batchnorm(training.shards, size)
    check_precision(training)


def check_precision(training: DictConfig | TrainingConfig) -> None:
    """Refuse a precision that cannot be had with a network in parts.

    Raises:
        UserError: says which one can.
    """
    if training.parallel is Parallel.fsdp and training.precision is Precision.fp16:
        raise UserError(
            "training.parallel=fsdp with training.precision=fp16: no process sees all gradients, "
            "which scaling the loss needs; use training.precision=bf16"
        )


def _check_model(config: DictConfig) -> None:
    for key in ("needs_buffer", "joint"):
        if key in config.model:
            raise UserError(
                f"model.{key}={config.model[key]}: the class says it (`replays`, `joint`); take "
                "the key out of the model's file"
            )
    size = config.buffer.size
    if not isinstance(size, int) or size < 0 or (size == 0 and config.buffer.get("_target_")):
        raise UserError(
            f"buffer.size={size}: must be an integer, 1 or more (buffer=none keeps nothing)"
        )
    if config.training.mode is Mode.joint and config.dataset.stop_after is not None:
        raise UserError(
            f"dataset.stop_after={config.dataset.stop_after} with training=joint: a joint run "
            "has no tasks to stop after"
        )
