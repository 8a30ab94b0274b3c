"""The one place where a configuration becomes objects and is handed to the trainer."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import perdure
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.manager import CheckpointManager, Policy, stem
from perdure.config.build import build, check, locate
from perdure.config.compare import require_same
from perdure.config.folder import CHECKOUT
from perdure.config.schema import Direction, Mode, buffer_size, validate
from perdure.config.stored import refuse_locations
from perdure.datasets.fetch import time_limit
from perdure.datasets.scenarios import Scenario
from perdure.distributed.process_group import join
from perdure.errors import UserError
from perdure.io.redaction import ADDRESSES
from perdure.io.run_files import RunFiles
from perdure.models.base import Method
from perdure.randomness import Streams
from perdure.ranks import environment
from perdure.run import device_setup
from perdure.run.preemption import StopFlag
from perdure.run.recorders import make_recorders
from perdure.run.restore import changes, load_weights, restore, versions
from perdure.run.resume import RestorePoint, Start, limits_of, weights_of
from perdure.tracking.events import Recorder
from perdure.tracking.provenance import read_code
from perdure.tracking.used_modules import used_modules
from perdure.training.optim import OptimizerFactory
from perdure.training.recording import Launch, Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

_SMALL = 1_000_000
_MODEL_FACTS = ("name", "needs_buffer", "joint")


def run(
    config: DictConfig,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    notices: Sequence[str] = (),
    start: Start = None,
    stop: StopFlag | None = None,
    sweep: str | None = None,
    config_folders: Sequence[str] = (),
) -> dict[str, Any]:
    """Train as `config` says.

    Args:
        config: the composed configuration.
        folder: where the run's files go; none writes no files.
        overrides: what the user typed, for the checkpoints.
        notices: sentences to show once at the start.
        start: the checkpoint to resume from, or the weights to start with.
        stop: read at every step boundary: a reason to save and stop.
        sweep: name of the sweep that the run belongs to.
        config_folders: where configuration files were looked for besides `conf/`; remembered to
            be shown to who resumes the run.

    Returns:
        What results.json holds.

    Raises:
        UserError: the configuration, the data or the disk does not allow the run.
    """
    validate(config)
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    plain = ADDRESSES.redact_values(plain)  # what interpolations brought in
    ranks = join(plain["training"]["collective_timeout"])
    source = ranks.from_main(start if isinstance(start, RestorePoint) else None)
    plain["training"]["shards"] = device_setup.shards_of(plain, source, ranks)
    messages = [*notices, *device_setup.notices(plain, ranks)]
    if source is not None and not source.fork:
        plain["timestamp"] = source.config.timestamp
        require_same(plain, source.config.args, source.path)
    if source is not None:
        allowed = plain["checkpoint"]["allow"]
        refuse_locations(plain, source.taken, allowed, source.origin)
    stop = stop or StopFlag()
    recorders = make_recorders(plain, config, folder, source, sweep, stop) if ranks.is_main else []
    code = read_code(CHECKOUT) if folder is not None and ranks.is_main else None
    version = "unknown" if code is None else code.version
    metadata = {"overrides": list(overrides), "config_folders": list(config_folders)}
    launch = Launch(ranks=ranks, stop=stop, started=perdure.STARTED)
    trainer = make_trainer(plain, config, folder, recorders, launch, version, metadata)
    device = trainer.state.device
    # What is wrong with the checkpoint is found before the run leaves anything behind.
    if source is not None:
        messages += restore(trainer, source, folder if ranks.is_main else None)
    elif config.checkpoint.load is not None:
        limits = limits_of(config.checkpoint.max_minutes, config.checkpoint.max_gigabytes)
        weights = weights_of(start, plain["checkpoint"]["load"], limits)
        messages += load_weights(trainer, config, weights)
    if folder is not None and code is not None:
        code.with_modules(*used_modules(plain)).write(folder)
    if source is not None:
        messages += changes(versions(device, version), source)
    if not plain["deterministic"] and device.type == "cuda":
        messages.append(
            "deterministic=false: faster kernels, and no promise of the same bits again"
        )
    return trainer.fit(messages)


def make_trainer(
    plain: dict[str, Any],
    config: DictConfig,
    folder: Path | None = None,
    recorders: Sequence[Recorder] = (),
    launch: Launch | None = None,
    code: str = "unknown",
    metadata: Mapping[str, Any] | None = None,
) -> Trainer:
    """All objects of a run, built leaves first and put together.

    Args:
        plain: the configuration as plain data.
        config: the same, typed.
        folder: the run's folder; None writes no checkpoints.
        recorders: receive the run's events.
        launch: the ranks and the signals of this process; a process alone by default.
        code: the code's version, for the checkpoints.
        metadata: what every full checkpoint holds besides the state and the versions.
    """
    launch = launch or Launch()
    device = choose_device(plain["device"])
    torch.set_num_threads(plain["threads"] or 1)
    make_deterministic(plain["deterministic"], device)
    benchmark = make_benchmark(plain, device)
    method = make_method(plain, benchmark, device)
    if plain["threads"] is None and sum(p.numel() for p in method.parameters()) >= _SMALL:
        torch.set_num_threads(device_setup.threads())
    manager = make_checkpoints(
        plain,
        config,
        folder or Path(),
        benchmark.accuracies,
        {"versions": versions(device, code), **(metadata or {})},
        writes=launch.ranks.is_main,
    )
    recording = Recording(
        recorders=recorders,
        checkpoints=manager if folder is not None else None,
        folder=folder or Path(),
        config=plain,
        facts=facts(plain, config, benchmark, device),
    )
    return Trainer(
        method,
        benchmark,
        settings(plain),
        OptimizerFactory(_optimizer(plain["optimizer"]), _scheduler(plain["scheduler"])),
        _buffer(plain),
        build(plain["dataset"]["transform"], "dataset.transform"),
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


def make_deterministic(wanted: bool, device: torch.device) -> None:
    """On a GPU, choose the kernels that always add in the same order."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not wanted
        torch.use_deterministic_algorithms(wanted)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def make_benchmark(plain: Mapping[str, Any], device: torch.device) -> Scenario:
    """The tasks, with their data on `device`."""
    dataset = plain["dataset"]
    source = build(dataset["source"], "dataset.source")
    with time_limit(plain["data"]["max_minutes"]):
        arrays = source.load(Path(plain["data"]["root"]).expanduser())
    benchmark: Scenario = build(
        dataset["scenario"],
        "dataset.scenario",
        arrays,
        n_tasks=dataset["n_tasks"],
        seed=dataset["seed"],
        validation=dataset["validation"],
        class_order=dataset["class_order"],
        device=device,
    )
    return benchmark


def make_method(plain: Mapping[str, Any], benchmark: Scenario, device: torch.device) -> Method:
    """The method around its freshly initialized backbone, on `device`."""
    streams = Streams(plain["seed"])
    streams.seed_torch("initialisation")
    backbone = build(
        plain["backbone"],
        "backbone",
        input_shape=benchmark.shape,
        n_classes=benchmark.n_classes,
    )
    node = {key: value for key, value in plain["model"].items() if key not in _MODEL_FACTS}
    method: Method = build(node, "model", backbone)
    return method.to(device)


def settings(plain: Mapping[str, Any]) -> Settings:
    """The loop's knobs, from the groups where people look for them."""
    dataset, training = plain["dataset"], dict(plain["training"])
    joint = training.pop("mode") == Mode.joint.value
    del training["collective_timeout"]
    training["shards"] = training["shards"] or environment.world_size()
    return Settings(
        **training,
        joint=joint,
        seed=plain["seed"],
        **{key: dataset[key] for key in ("epochs", "iterations", "batch_size", "stop_after")},
    )


def facts(
    plain: Mapping[str, Any], config: DictConfig, benchmark: Scenario, device: torch.device
) -> dict[str, Any]:
    """What results.json says of the run besides what is measured."""
    return {
        "model": plain["model"]["name"],
        "dataset": plain["dataset"]["name"],
        "seed": plain["seed"],
        "timestamp": plain["timestamp"],
        "training": plain["training"]["mode"],
        "scenario": benchmark.kind,
        "split": benchmark.split,
        "buffer_size": buffer_size(config),
        "n_epochs": plain["dataset"]["epochs"],
        "n_tasks": benchmark.n_tasks,
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "perdure": perdure.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads(),
            "processes": environment.world_size(),
        },
    }


def _optimizer(node: dict[str, Any]) -> Callable[[Any], torch.optim.Optimizer]:
    return _maker(node, "optimizer")


def _scheduler(node: dict[str, Any] | None) -> Callable[[torch.optim.Optimizer], Any] | None:
    return _maker(node, "scheduler") if node and node.get("_target_") else None


def _maker(node: dict[str, Any], group: str) -> Callable[[Any], Any]:
    """A call with one argument to the class that `node` names, with the rest of `node`."""
    options = {key: value for key, value in node.items() if key != "_target_"}
    target = locate(node["_target_"], group)
    check(target, options, group)

    def make(first: Any) -> Any:
        try:
            return target(first, **options)
        except (ValueError, TypeError) as error:
            raise UserError(f"{group}: {error}") from error

    return make


def _buffer(plain: Mapping[str, Any]) -> Any:
    if not plain["model"]["needs_buffer"]:
        return None
    return build(plain["buffer"], "buffer")


def make_checkpoints(
    plain: Mapping[str, Any],
    config: DictConfig,
    folder: Path,
    accuracies: tuple[str, ...],
    extra: Mapping[str, Any],
    writes: bool,
) -> CheckpointManager:
    """Who keeps the checkpoints of the run in `folder`.

    Raises:
        UserError: the cadence or the monitored value is not known.
    """
    wanted = plain["checkpoint"]
    cadence = Cadence(wanted["every"], config.training.mode is Mode.joint)
    policy = Policy(
        wanted["save"],
        wanted["top_k"],
        _monitor(wanted["monitor"], accuracies),
        wanted["mode"] == Direction.max.value,
        wanted["keep"],
        wanted["weights_only"],
    )
    start = stem(
        wanted["name"],
        plain["model"]["name"],
        plain["dataset"]["name"],
        buffer_size(config),
        plain["dataset"]["epochs"],
        plain["timestamp"],
    )
    return CheckpointManager(RunFiles(folder).checkpoints, start, policy, cadence, extra, writes)


def _monitor(name: str, accuracies: tuple[str, ...]) -> str:
    known = [f"{figure}.{a}" for figure in ("average_accuracy", "accuracy") for a in accuracies]
    full = name if "." in name else f"{name}.{accuracies[0]}"
    if full not in known:
        raise UserError(f"checkpoint.monitor={name}: must be one of {', '.join(known)}")
    return full
