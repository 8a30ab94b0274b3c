"""Perdure without its command line: compose a configuration and train, from any Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as _compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from perdure.recipes import CONF, notices


@contextmanager
def configuration() -> Iterator[None]:
    """Hydra set up on the repository's `conf/`, whatever it was set up on before."""
    from perdure.launch import register

    register()
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
    with configuration():
        return _compose("train", overrides=list(overrides))


def train(*overrides: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Run `python train.py <overrides>` in this process.

    Args:
        overrides: as on the command line, `"model=derpp", "seed=1"`.
        folder: where the run's files go; none writes no files.

    Returns:
        What results.json holds.

    Raises:
        UserError: something in the overrides, the data or the disk does not allow the run.
    """
    from perdure.run import run

    config = compose(*overrides)
    target = None if folder is None else Path(folder)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
    return run(config, target, list(overrides), notices(config, list(overrides)))
