"""The typed schema of the configuration, and the checks that need nothing heavy imported."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from perdure.config.benchmark import require_benchmark
from perdure.config.rules import RULES, check_stop_after
from perdure.config.task_sizes import check_epochs, check_sizes
from perdure.errors import UserError
from perdure.ranks import environment, shards


class Mode(Enum):
    """One task after another, or all at once."""

    continual = "continual"
    joint = "joint"


class Precision(Enum):
    """Full precision, or automatic mixed precision."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Per(Enum):
    """What a scheduler counts."""

    epoch = "epoch"
    step = "step"


class Screen(Enum):
    """How the console shows a run: by what the output is, always in plain lines, or not at all."""

    auto = "auto"
    plain = "plain"
    off = "off"


class LossScope(Enum):
    """Cross-entropy over all classes of the benchmark, those seen so far, or the task's own."""

    full = "full"
    seen = "seen"
    current = "current"


class ReplaySync(Enum):
    """Whether every process keeps the whole buffer, or a part of its own."""

    replicated = "replicated"
    local = "local"


class Parallel(Enum):
    """Whether every process holds the whole network, or a part of it."""

    replicate = "replicate"
    fsdp = "fsdp"


class NoiseKind(Enum):
    """Which wrong label an example gets: any other class, or one that is like its own."""

    symmetric = "symmetric"
    asymmetric = "asymmetric"


@dataclass
class NoiseConfig:
    """Wrong labels of training examples."""

    kind: NoiseKind | None = None
    rate: float = 0.0


@dataclass
class DatasetConfig:
    """A benchmark: where the data come from, how they become tasks, and how long to train."""

    name: str = MISSING
    source: Any = MISSING
    scenario: Any = MISSING
    transform: Any = MISSING
    n_tasks: Any = MISSING
    class_sizes: Any = None
    initial_classes: int | None = None
    increment: int | None = None
    epochs: Any = 1
    iterations: int | None = None
    batch_size: int = MISSING
    seed: int = MISSING
    class_order: Any = None
    validation: float = 0.0
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    imbalance: float | None = None
    stop_after: int | None = None


@dataclass
class TrainingConfig:
    """How the loop runs."""

    mode: Mode = Mode.continual
    precision: Precision = Precision.fp32
    clip_norm: float | None = None
    evaluate_every: int | None = None
    evaluate_every_task: int = 1
    evaluate_future: bool = False
    eval_batch_size: int = 1000
    log_every: int = 100
    reset_optimizer: bool = True
    one_forward: bool = True
    loss_scope: LossScope | None = None
    updates: int = 1
    scheduler_per: Per = Per.epoch
    shards: int | None = None
    exact: bool = True
    replay_sync: ReplaySync = ReplaySync.replicated
    sync_batchnorm: bool = False
    parallel: Parallel = Parallel.replicate
    collective_timeout: float = 600.0


class Direction(Enum):
    """Whether more of a monitored value is better, or less."""

    max = "max"
    min = "min"


class Resume(Enum):
    """Go on by itself when the run's folder holds a checkpoint."""

    auto = "auto"


@dataclass
class CheckpointConfig:
    """What is saved, when, how much stays, and where from to start."""

    save: bool = False
    name: str = ""
    every: Any = None
    top_k: int = 1
    monitor: str = "average_accuracy"
    mode: Direction = Direction.max
    keep: int | None = None
    weights_only: bool = True
    load: str | None = None
    allow: list[str] = field(default_factory=list)
    resume: Resume | None = None
    fork: bool = False
    other_benchmark: bool = False
    allow_missing: bool = False
    new_head: bool = False
    take_buffer: bool = False
    map: Any = None
    max_minutes: float = 60.0
    max_gigabytes: float = 20.0


class WandbMode(Enum):
    """Mirrored as it runs, sent later by a script, or not at all."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


# "raise" is a keyword, so no class body can hold it.
OnError = Enum("OnError", {"offline": "offline", "disable": "disable", "raise": "raise"})
"""When W&B fails: leave the rest to a later sync, give W&B up, or end the run."""


@dataclass
class WandbConfig:
    """The run of Weights & Biases that mirrors this one."""

    mode: WandbMode | None = None
    entity: str | None = None
    project: str = "perdure"
    name: str | None = None
    group: str | None = None
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    artifacts: bool = True
    on_error: OnError = OnError.offline
    finish_seconds: float = 60.0


@dataclass
class TrackingConfig:
    """How a run is shown and recorded."""

    console: Screen = Screen.auto
    plot_every_seconds: float = 10.0
    wandb: WandbConfig | None = None


@dataclass
class DataConfig:
    """Where data sets are kept on disk."""

    root: str = MISSING
    max_minutes: float = 360.0


@dataclass
class Config:
    """The whole configuration; groups that name a `_target_` are checked when they are built."""

    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    deterministic: bool = True
    output_root: str = MISSING
    timestamp: str = MISSING
    model: Any = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    buffer: Any = MISSING
    backbone: Any = MISSING
    head: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: str = "auto"


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
