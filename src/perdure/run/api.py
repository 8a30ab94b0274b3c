"""Perdure without its command line: train from any Python."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from perdure.checkpoint.core.lock import RunLock
from perdure.config.compose import compose, register
from perdure.config.error_messages import explain
from perdure.config.overrides import Arguments
from perdure.config.recipe import notices
from perdure.errors import PerdureError, UserError
from perdure.io.files import require_own
from perdure.io.redaction import ADDRESSES
from perdure.ranks import environment, rendezvous
from perdure.run.folder import RunFolder
from perdure.run.identity import require_place
from perdure.run.resume import RestorePoint, Start, limits_of, plan


def train(*overrides: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Run `python train.py <overrides>` in this process.

    Args:
        overrides: as on the command line, `"model=derpp", "seed=1"`; `--config-dir=…` too.
        folder: where the run's files go; None writes no files. One with a run in it is refused
            unless `checkpoint.resume=auto`, which resumes it. A full checkpoint named by
            `checkpoint.load` is resumed in its own folder unless it is forked.

    Returns:
        What results.json holds.

    Raises:
        UserError: something in the overrides, the data or the disk does not allow the run.
    """
    words = _words(overrides)
    place = None if folder is None else _place(folder)
    try:
        return _train(words, place)
    except PerdureError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, words)) from error


def _train(words: list[str], folder: Path | None) -> dict[str, Any]:
    from perdure.run.assemble import run

    register()
    start: Start = None
    typed_here = ADDRESSES.command(words)

    def expanded() -> list[Any]:
        nonlocal start
        planned = plan(typed_here)
        start, target = planned.start, folder
        if isinstance(start, RestorePoint) and not start.fork:
            target = start.run
        return [list(map(ADDRESSES.redact, planned.words)), None if target is None else str(target)]

    arguments, target = rendezvous.from_main("arguments", expanded)
    command = Arguments(tuple(arguments))
    typed = [t.text for t in command.overrides if not t.text.startswith("hydra.")]
    config = compose(*command.search_path, *typed)
    ADDRESSES.redact_config(config)
    shown, folders = notices(config), command.config_folders
    if target is None:
        return run(config, None, typed, shown, start, config_folders=folders)
    place = RunFolder(Path(target))
    loads = isinstance(start, RestorePoint) and not start.fork
    lock = place.new_lock()
    try:
        results = rendezvous.from_main("results", lambda: _enter(place, lock, config, typed, loads))
        if results is None:
            if environment.is_main() and config.checkpoint.resume is not None:
                limits = limits_of(config.checkpoint.max_minutes, config.checkpoint.max_gigabytes)
                start = place.latest_intact(limits) or start
            results = run(config, place.path, typed, shown, start, config_folders=folders)
        if environment.is_main() and not place.is_complete:
            place.write_status("finished", 0)
        return dict(results)
    finally:
        lock.release()


def _words(overrides: tuple[str, ...]) -> list[str]:
    """`overrides`, where they are text without flags of the command line but `--config-dir`."""
    for override in overrides:
        if not isinstance(override, str):
            raise UserError(
                f"perdure.train({override!r}): overrides are text, one an argument: "
                "perdure.train('model=derpp', 'seed=1')"
            )
        if override.startswith("-") and not override.startswith(("--config-dir", "-cd")):
            raise UserError(
                f"{override}: perdure.train takes overrides, and no flag but --config-dir"
            )
        if override.startswith("hydra.run."):
            raise UserError(f"{override}: give perdure.train the folder, folder='…'")
    return list(overrides)


def _place(folder: str | Path) -> Path:
    if not isinstance(folder, str | PathLike):
        raise UserError(f"folder={folder!r}: must be a path")
    return Path(folder).expanduser()


def _enter(
    place: RunFolder, lock: RunLock, config: DictConfig, typed: Sequence[str], loads: bool
) -> dict[str, Any] | None:
    """Take the folder, on rank 0; returns the results of a run that is finished there already."""
    resumes = loads or config.checkpoint.resume is not None
    try:
        require_own(place.path)
        lock.require_free()
        require_place(place.path, config, typed, resumes, "folder")
        place.path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"folder={place.path}: cannot write there ({error.strerror})") from None
    results = place.results_for(config) if resumes else None
    if results is None:
        place.begin()
    return results
