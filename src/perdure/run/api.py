"""Perdure without its command line: train from any Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.config.compose import compose, register
from perdure.config.overrides import Arguments
from perdure.config.recipe import notices
from perdure.io.files import require_own
from perdure.io.redaction import ADDRESSES
from perdure.ranks import environment, rendezvous
from perdure.run.folder import RunFolder
from perdure.run.resume import RestorePoint, Start, plan


def train(*overrides: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Run `python train.py <overrides>` in this process.

    Args:
        overrides: as on the command line, `"model=derpp", "seed=1"`; `--config-dir=…` too.
        folder: where the run's files go; none writes no files. A full checkpoint named by
            `checkpoint.load` is resumed in its own folder unless it is forked.

    Returns:
        What results.json holds.

    Raises:
        UserError: something in the overrides, the data or the disk does not allow the run.
    """
    from perdure.run.assemble import run

    register()
    start: Start = None
    typed_here = ADDRESSES.command(overrides)

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
    place = None if target is None else Path(target)
    shown, folders = notices(config), command.config_folders
    if place is None or not environment.is_main():
        return run(config, place, typed, shown, start, config_folders=folders)
    require_own(place)
    place.mkdir(parents=True, exist_ok=True)
    run_folder = RunFolder(place)
    lock = run_folder.new_lock()
    lock.acquire()
    try:
        run_folder.remove_temporaries()
        return run(config, place, typed, shown, start, config_folders=folders)
    finally:
        lock.release()
