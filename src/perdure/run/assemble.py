"""Build model, benchmark, buffer, optimizer and trainer from a configuration, and train."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import perdure
from perdure.backbones.base import Backbone
from perdure.buffers.base import Buffer
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.manager import CheckpointManager, Policy, stem
from perdure.config.build import build
from perdure.config.compare import require_same
from perdure.config.folder import CHECKOUT
from perdure.config.method_name import method_name
from perdure.config.schema import Config, Direction, Mode
from perdure.config.trust import refuse_locations
from perdure.config.typed import as_plain, typed
from perdure.config.validation import validate
from perdure.datasets.fetch import time_limit
from perdure.datasets.scenarios import Scenario
from perdure.datasets.streams import length
from perdure.distributed.process_group import Ranks, join
from perdure.errors import UserError
from perdure.io.run_files import RunFiles
from perdure.models.base import Method
from perdure.models.replay import uses_buffer
from perdure.randomness import seed_initialization
from perdure.ranks import environment
from perdure.run import device_setup
from perdure.run.benchmark import make_tasks
from perdure.run.budget import places
from perdure.run.fork import Fork
from perdure.run.method_checks import (
    build_method,
    check_method,
    ignored_overrides,
    method_class,
    replay_size,
)
from perdure.run.network import make_network
from perdure.run.preemption import StopFlag
from perdure.run.recorders import make_recorders
from perdure.run.restore import changes, load_weights, restore, versions
from perdure.run.resume import RestorePoint, Start, limits_of, weights_of
from perdure.run.sealed import build_source
from perdure.run.target_overrides import drop_unaccepted_options
from perdure.tracking.events import Recorder
from perdure.tracking.provenance import read_code
from perdure.tracking.used_modules import used_modules
from perdure.training.checks import sizes
from perdure.training.clock import Moment
from perdure.training.evaluation import measurable
from perdure.training.optim import OptimizerFactory, optimizer_of
from perdure.training.recording import Launch, Recording
from perdure.training.schedules import Schedule, full_name
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def run(
    composed: DictConfig,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    notices: Sequence[str] = (),
    start: Start = None,
    stop: StopFlag | None = None,
    sweep: str | None = None,
    config_folders: Sequence[str] = (),
    started: Moment | None = None,
) -> dict[str, Any]:
    """Train as `composed` says.

    Args:
        composed: the configuration as Hydra composed it.
        folder: where the run's files go; None writes no files.
        overrides: what the user typed, for the checkpoints.
        notices: sentences to show once at the start.
        start: the checkpoint to resume from, or the weights to start with.
        stop: read at every step boundary: a reason to save and stop.
        sweep: name of the sweep that the run belongs to.
        config_folders: where configuration files were looked for besides `conf/`; remembered to
            be shown to who resumes the run.
        started: when the run began; None is now.

    Returns:
        What results.json holds.

    Raises:
        UserError: the configuration, the data or the disk does not allow the run.
    """
    started = started or Moment()
    validate(composed)
    composed, left_out = drop_unaccepted_options(composed, overrides)
    config = typed(composed)
    check_method(config, overrides, getattr(start, "taken", ()))
    ranks = join(config.training.collective_timeout)
    source = ranks.broadcast(start if isinstance(start, RestorePoint) else None)
    config, fork = _settled(config, source, ranks)
    messages = [*ignored_overrides(config, overrides), *notices, *left_out]
    messages += device_setup.notices(config.training, ranks)
    if source is not None and not source.fork:
        messages += device_setup.thread_notice(config.threads)
    stop = stop or StopFlag()
    recorders = make_recorders(config, folder, source, sweep, stop) if ranks.is_main else []
    code = read_code(CHECKOUT) if folder is not None and ranks.is_main else None
    version = "unknown" if code is None else code.version
    metadata = {"overrides": list(overrides), "config_folders": list(config_folders)}
    launch = Launch(ranks=ranks, stop=stop, started=started)
    network = None if fork is None else fork.backbone_weights
    try:
        trainer = make_trainer(config, folder, recorders, launch, version, metadata, network)
    except RuntimeError as error:
        if fork is None or network is None:
            raise
        raise fork.misfit(error, "backbone", "head", "dataset") from error
    device = trainer.state.device
    # What is wrong with the checkpoint is found before the run leaves anything behind.
    if source is not None:
        messages += restore(trainer, source, folder if ranks.is_main else None, fork)
    elif config.checkpoint.load is not None:
        limits = limits_of(config.checkpoint.max_minutes, config.checkpoint.max_gigabytes)
        weights = weights_of(start, config.checkpoint.load, limits)
        messages += load_weights(trainer, config.checkpoint, weights)
    if folder is not None and code is not None:
        code.with_modules(*used_modules(as_plain(config))).write(folder)
    if source is not None:
        messages += changes(versions(device, version), source)
    if not config.deterministic and device.type == "cuda":
        messages.append(
            "deterministic=false: faster kernels, and no promise of the same bits again"
        )
    return trainer.fit(messages)


def _settled(
    config: Config, source: RestorePoint | None, ranks: Ranks
) -> tuple[Config, Fork | None]:
    """`config` with what the start of the run decides: shards; a resumed run's threads and time.

    And what a fork changes.

    Raises:
        UserError: the run cannot be resumed from `source` with this configuration.
    """
    shards = device_setup.shards_of(config.training, source, ranks)
    threads = config.threads or device_setup.threads_before(source)
    config = replace(config, training=replace(config.training, shards=shards), threads=threads)
    if source is None:
        return config, None
    if not source.fork:
        config = replace(config, timestamp=source.config.timestamp)
        require_same(as_plain(config), source.config.args, source.path)
    refuse_locations(as_plain(config), source.taken, config.checkpoint.allow, source.origin)
    return config, Fork(config, source) if source.fork else None


def make_trainer(
    config: Config,
    folder: Path | None = None,
    recorders: Sequence[Recorder] = (),
    launch: Launch | None = None,
    code: str = "unknown",
    metadata: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
) -> Trainer:
    """All objects of a run, built leaves first and put together.

    Args:
        config: the configuration, with the number of shards settled where there are many ranks.
        folder: the run's folder; None writes no checkpoints.
        recorders: receive the run's events.
        launch: the ranks and the signals of this process; a process alone by default.
        code: the code's version, for the checkpoints.
        metadata: what every full checkpoint holds besides the state and the versions.
        network: weights of the backbone around which the method is built; None for fresh ones.
    """
    launch = launch or Launch()
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or 1)
    make_deterministic(config.deterministic, device)
    benchmark = make_benchmark(config, device)
    method = make_method(config, benchmark, device, network)
    if config.threads is None:
        n, shards = sum(p.numel() for p in method.parameters()), settings(config).n_shards
        config = replace(config, threads=device_setup.threads_of(n, shards, launch.ranks))
        torch.set_num_threads(config.threads or 1)
    sized = within_budget(config, benchmark, device)
    manager = make_checkpoints(
        config,
        folder or Path(),
        measurable(method, benchmark),
        n_epochs(config, benchmark),
        replay_size(sized, benchmark.n_classes),
        {"versions": versions(device, code), **(metadata or {})},
        writes=launch.ranks.is_main,
    )
    recording = Recording(
        recorders=recorders,
        checkpoints=manager if folder is not None else None,
        folder=folder or Path(),
        config=as_plain(config),
        facts=facts(sized, benchmark, device),
        evaluation=config.evaluation if folder is not None else None,
    )
    return Trainer(
        method,
        benchmark,
        settings(config),
        OptimizerFactory(optimizer_of(config.optimizer), _scheduler(config.scheduler)),
        make_buffer(sized, benchmark),
        build(config.dataset.transform, "dataset.transform"),
        recording,
        launch,
    )


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = device_setup.device_name(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device={name}: not usable here ({reason})") from None
    return device


def make_deterministic(deterministic: bool, device: torch.device) -> None:
    """On a GPU, choose the kernels that always add in the same order."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not deterministic
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def make_benchmark(config: Config, device: torch.device) -> Scenario:
    """The tasks, with their data on `device`."""
    source = build_source(config.dataset.source)
    with time_limit(config.data.max_minutes):
        arrays = source.load(Path(config.data.root).expanduser())
    return make_tasks(config.dataset, arrays, device)


def make_method(
    config: Config,
    benchmark: Scenario,
    device: torch.device,
    network: Mapping[str, Any] | None = None,
    around: Callable[[Backbone], Backbone] = lambda network: network,
) -> Method:
    """The method around its backbone, on `device`: fresh, or with the weights `network`.

    Args:
        config: the groups `model`, `addon`, `backbone` and `head`, and the seed.
        benchmark: the tasks.
        device: where the method goes.
        network: a state of the backbone.
        around: what the method gets instead of the backbone.
    """
    seed_initialization(config.seed)
    backbone = around(make_network(config, benchmark, network))
    return build_method(config, backbone, benchmark.shape).to(device)


def make_buffer(config: Config, benchmark: Scenario) -> Buffer | None:
    """The replay buffer; None for a method without one.

    Raises:
        UserError: `buffer._target_` is no policy, or its options do not fit the benchmark.
    """
    if not uses_buffer(method_class(config)):
        return None
    counts = {"n_classes": benchmark.n_classes, "n_tasks": benchmark.n_tasks}
    return Buffer(build(config.buffer, "buffer", **counts))


def within_budget(config: Config, benchmark: Scenario, device: torch.device) -> Config:
    """`config` with the buffer that `budget.bytes` leaves; itself where there is no budget.

    Raises:
        UserError: the budget leaves no place.
    """
    if config.budget.bytes is None:
        return config
    method, buffer = make_method(config, benchmark, device), make_buffer(config, benchmark)
    policy = None if buffer is None else buffer.policy
    transform = build(config.dataset.transform, "dataset.transform")
    own, budget = settings(config), config.budget.bytes
    size = places(budget, method, policy, benchmark, own, transform)
    return config if policy is None else replace(config, buffer={**config.buffer, "size": size})


def settings(config: Config) -> Settings:
    """The loop's settings, from the groups where people look for them."""
    dataset = config.dataset
    return Settings(
        **vars(config.training),
        seed=config.seed,
        batch_size=dataset.batch_size,
        epochs=dataset.epochs,
        iterations=dataset.iterations,
        stop_after=dataset.stop_after,
    )


def facts(config: Config, benchmark: Scenario, device: torch.device) -> dict[str, Any]:
    """What results.json says of the run besides what is measured."""
    return {
        "model": method_name(config),
        "dataset": config.dataset.name,
        "seed": config.seed,
        "timestamp": config.timestamp,
        "training": config.training.mode.name,
        "scenario": benchmark.kind,
        "split": benchmark.split,
        "buffer_size": replay_size(config, benchmark.n_classes),
        "n_epochs": n_epochs(config, benchmark),
        "n_tasks": benchmark.n_tasks,
        "class_names": list(benchmark.class_names),
        "task_classes": [list(benchmark.classes(task)) for task in range(benchmark.n_tasks)],
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "perdure": perdure.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "processes": environment.world_size(),
        },
    }


def n_epochs(config: Config, benchmark: Scenario) -> int:
    """Epochs of the first task, as results and the names of checkpoints give them.

    With `dataset.iterations` those that they take on the first task, the last one begun included.
    """
    dataset = config.dataset
    if dataset.iterations is None:
        return settings(config).epochs_of(0)
    n = sizes(benchmark, settings(config))[0]
    return length(max(1, n), dataset.batch_size, iterations=dataset.iterations).epochs


def _scheduler(node: dict[str, Any] | None) -> Schedule | None:
    return Schedule(node) if node and node.get("_target_") else None


def make_checkpoints(
    config: Config,
    folder: Path,
    accuracies: tuple[str, ...],
    epochs: int,
    buffer_size: int,
    extra: Mapping[str, Any],
    writes: bool,
) -> CheckpointManager:
    """Who keeps the checkpoints of the run in `folder`.

    Args:
        config: the configuration.
        folder: the run's.
        accuracies: names of the accuracies that are measured.
        epochs: the number in the files' names.
        buffer_size: capacity of the buffer, in the files' names.
        extra: what every full file holds besides the state.
        writes: whether this process writes.

    Raises:
        UserError: the cadence or the monitored value is not known.
    """
    checkpoint = config.checkpoint
    cadence = Cadence(checkpoint.every, config.training.mode is Mode.joint)
    policy = Policy(
        checkpoint.save,
        checkpoint.top_k,
        full_name(checkpoint.monitor, accuracies, "checkpoint"),
        checkpoint.mode is Direction.max,
        checkpoint.keep,
        checkpoint.weights_only,
    )
    names = (checkpoint.name, method_name(config), config.dataset.name)
    start = stem(*names, buffer_size, epochs, config.timestamp)
    return CheckpointManager(RunFiles(folder).checkpoints, start, policy, cadence, extra, writes)
