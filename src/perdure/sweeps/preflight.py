"""Preflight checks of a sweep: optional packages, options of the search, torchrun."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, ListConfig, read_write

from perdure.config.overrides import readable
from perdure.errors import UserError
from perdure.io.redaction import redacted
from perdure.ranks import environment

_PLUGINS = "hydra_plugins"
_PACKAGES = {
    f"{_PLUGINS}.perdure_launchers.Slurm": ("hydra/launcher=slurm", "slurm", "submitit"),
    f"{_PLUGINS}.perdure_launchers.Ray": ("hydra/launcher=ray", "ray", "ray"),
    f"{_PLUGINS}.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper": (
        "hydra/sweeper=optuna", "optuna", f"{_PLUGINS}.hydra_optuna_sweeper",
    ),
}  # fmt: skip
_IN_PROCESS = f"{_PLUGINS}.perdure_launchers.OneProcess"


def check(config: DictConfig) -> None:
    """Refuse a sweep that cannot work, before any file is written.

    Raises:
        UserError: names what is missing or conflicts.
    """
    launcher, sweeper = str(config.hydra.launcher._target_), str(config.hydra.sweeper._target_)
    for target in (launcher, sweeper):
        if target in _PACKAGES:
            _require_installed(*_PACKAGES[target])
    ranks = environment.world_size()
    if ranks > 1 and "optuna" in sweeper:
        raise UserError(
            f"hydra/sweeper=optuna in {ranks} processes of torchrun: each would try other values; "
            "search with one process a run (python train.py -m …)"
        )
    if ranks > 1 and "perdure_launchers" in launcher and launcher != _IN_PROCESS:
        name = launcher.rpartition(".")[2].lower()
        raise UserError(
            f"hydra/launcher={name} in {ranks} processes of torchrun: each would start every job; "
            "leave the launcher out, or start the sweep with python instead of torchrun"
        )
    if config.checkpoint.fork and config.checkpoint.load is not None and launcher == _IN_PROCESS:
        raise UserError(
            "checkpoint.fork=true with -m: each branch is a process of its own, so add "
            "hydra/launcher=local (or slurm, ray); `perdure branch` does"
        )
    if "optuna" in sweeper:
        _check_search(config)
        _respell_choices(config)


def _require_installed(choice: str, extra: str, module: str) -> None:
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(
            f"{choice} needs a package that is not installed: pip install 'perdure[{extra}]'"
        )


def _respell_choices(config: DictConfig) -> None:
    """What a file says of the search may hold `choice(null, …)` too, which Hydra does not take."""
    params = config.hydra.sweeper.get("params")
    with read_write(config):
        for key, value in (params or {}).items():
            if isinstance(value, str):
                params[key] = readable(f"{key}={value}").partition("=")[2]


def _check_search(config: DictConfig) -> None:
    for key in ("n_trials", "n_jobs"):
        number: Any = config.hydra.sweeper.get(key, 1)
        if type(number) is not int or number < 1:
            raise UserError(f"hydra.sweeper.{key}={number}: must be an integer, 1 or more")
    direction: Any = config.hydra.sweeper.get("direction", "maximize")
    directions = direction if isinstance(direction, ListConfig) else [direction]
    if any(getattr(d, "name", d) not in ("maximize", "minimize") for d in directions):
        raise UserError(f"hydra.sweeper.direction={direction}: must be maximize or minimize")
    storage: Any = config.hydra.sweeper.get("storage")
    if "***" in redacted(str(storage)):
        raise UserError(
            f"hydra.sweeper.storage={redacted(str(storage))}: Optuna would store and show the "
            "password; must be without it, where the database takes it from PGPASSWORD, ~/.pgpass "
            "or ~/.my.cnf"
        )
    if storage is not None and config.checkpoint.resume is not None:
        raise UserError(
            "hydra.sweeper.storage with checkpoint.resume=auto: a stored search continues with "
            "new trials, and so in a folder of its own; without the storage the same search is "
            "repeated, and its finished trials are taken from their folders"
        )
