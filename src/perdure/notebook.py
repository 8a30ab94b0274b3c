"""Perdure without its command line: train from any Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perdure.composition import compose
from perdure.recipes import notices


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
