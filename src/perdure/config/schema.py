"""The typed schema of the configuration, and the checks that need nothing heavy imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


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
    csv: bool = False
    tensorboard: bool = False
    wandb: WandbConfig | None = None


@dataclass
class DataConfig:
    """Where data sets are kept on disk."""

    root: str = MISSING
    max_minutes: float = 360.0


@dataclass
class BudgetConfig:
    """What a run may keep from task to task."""

    bytes: int | None = None


@dataclass
class EvaluationConfig:
    """What is recorded of evaluations, and which small ones there are during training."""

    records: bool = True
    records_bytes: int = 2_000_000
    probe_every: int | None = 500
    probe_size: int = 50
    first_batches: int = 10


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
    addon: Any = None
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    buffer: Any = MISSING
    backbone: Any = MISSING
    head: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = None
    training: TrainingConfig = field(default_factory=TrainingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    recipe: str = "auto"
