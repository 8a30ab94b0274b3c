"""Composing a configuration: the schema, the resolvers, and the repository's `conf/`.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hydra import compose as _compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from perdure.config.benchmark import require_effect
from perdure.config.folder import CONF
from perdure.config.overrides import Arguments, without_null_choices
from perdure.config.published import published
from perdure.config.schema import Config
from perdure.config.task_sizes import default_n_tasks
from perdure.errors import UserError

TIMESTAMP = "%Y%m%d-%H%M%S"


class RunTimestamp:
    """The resolver `${run_timestamp:…}`: the run's time to the second, unlike any other run's.

    While a run starts, the folder of this name is made at once, so that two commands that start in
    the same second get two: the later one takes the next free second.

    Attributes:
        fixed: the timestamp of what this process runs, once it is known: of all jobs and ranks.
    """

    def __init__(self) -> None:
        self.fixed: str | None = None
        self._reserves = False

    @contextmanager
    def reserving(self, reserves: bool = True) -> Iterator[None]:
        """Meanwhile the timestamp is that of a run which starts, and reserves its folder."""
        self._reserves = reserves
        try:
            yield
        finally:
            self._reserves = False

    def __call__(self, root: str) -> str:
        """The timestamp of a run below the folder `root`.

        Raises:
            UserError: the folder cannot be made there.
        """
        if self.fixed is not None:
            return self.fixed
        now = datetime.now()
        while self._reserves:
            try:
                Path(root).mkdir(parents=True, exist_ok=True)
                (Path(root) / now.strftime(TIMESTAMP)).mkdir()
                break
            except FileExistsError:
                now += timedelta(seconds=1)
            except OSError as error:
                raise UserError(
                    f"output_root={root}: cannot write there ({error.strerror})"
                ) from None
        return now.strftime(TIMESTAMP)


run_timestamp = RunTimestamp()
"""One a process: Hydra calls resolvers and callbacks by name, so both find it here."""


def register(config_folders: Iterable[str] = ()) -> None:
    """Make the schema, the resolvers and the published settings known to Hydra.

    Needed before anything is composed.

    Args:
        config_folders: folders of configuration files besides `conf/`.

    Raises:
        UserError: a file in `published/` is no valid table.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    # Hydra's `basic` stops at the first failure, and the plugin's `optuna` minimizes: they give way
    # to ours. (A file of the same name would be checked against theirs.)
    Plugins.instance()
    store.store(group="hydra/launcher", name="basic", node={"defaults": ["one_process"]})
    store.store(group="hydra/sweeper", name="optuna", node={"defaults": ["maximize"]})
    OmegaConf.register_new_resolver("run_timestamp", run_timestamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("published", published, replace=True)
    OmegaConf.register_new_resolver("n_tasks", default_n_tasks, replace=True)
    published.look_in(config_folders)
    published.store_experiments()


@contextmanager
def configuration(config_folders: Iterable[str] = ()) -> Iterator[None]:
    """Hydra set up on the repository's `conf/`, whatever it was set up on before."""
    register(config_folders)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        if before is not None:
            GlobalHydra.instance().hydra = before


def compose(*overrides: str) -> DictConfig:
    """The configuration that `python train.py <overrides>` would run."""
    return compose_with_options(*overrides)[0]


def compose_with_options(*overrides: str) -> tuple[DictConfig, dict[str, Any]]:
    """The same, and the option that each group has in it."""
    overrides = tuple(without_null_choices(overrides))
    with configuration(Arguments(overrides).config_folders):
        try:
            config = _compose("train", overrides=list(overrides), return_hydra_config=True)
        except AssertionError as error:
            sentence = needs_tracking(error, overrides)
            if sentence is None:
                raise
            raise UserError(sentence) from None
    require_effect(config.hydra)
    options: Any = OmegaConf.to_container(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, options


def expand_home(config: DictConfig) -> None:
    """Replace a `~` at the start of where runs go by the home folder, as a shell would."""
    with read_write(config):
        for key in ("output_root", "hydra.run.dir", "hydra.sweep.dir"):
            group, _, name = key.rpartition(".")
            node = OmegaConf.select(config, group) if group else config
            raw: Any = OmegaConf.to_container(node, resolve=False)
            if str(raw[name]).startswith("~"):
                node[name] = os.path.expanduser(str(raw[name]))


def require_literal(key: str, folder: Path) -> None:
    """Refuse a run folder whose name Hydra, which reads it once more, would take for another.

    Raises:
        UserError: it has `${` in it.
    """
    if "${" in str(folder):
        raise UserError(
            f"{key}={folder}: Hydra would read the ${{ in it as an interpolation once more and "
            "write elsewhere; rename the folder, or choose another"
        )


def needs_tracking(error: AssertionError, arguments: Iterable[str]) -> str | None:
    """What Hydra's bare assertion means: a key of W&B was set, but the run is not mirrored."""
    if not str(error).startswith("Unexpected type for root"):
        return None
    keys = (argument for argument in arguments if "tracking.wandb." in argument.partition("=")[0])
    key = next(keys, None)
    return None if key is None else f"{key}: there is no such key without tracking=wandb"
