"""Which run a folder holds: used or not, its recorded configuration, what a command may do there.

A folder is one run, for good: another run never writes there, and a command that resumes has the
run's own configuration (but for the keys in `FREE`). Nothing here writes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from perdure.checkpoint.core.migrate import migrated
from perdure.config.compare import differences, is_free, require_same
from perdure.config.typed import as_plain, typed
from perdure.errors import UserError, printable
from perdure.io.atomic import is_temporary
from perdure.io.files import read_json
from perdure.io.run_files import RunFiles
from perdure.tracking.history import plain

log = logging.getLogger("perdure")


def is_used(folder: Path) -> bool:
    """Whether a run has begun in `folder`: it holds more than what is made before training."""
    files = RunFiles(folder)
    kept = (files.results, files.metrics, files.settings, files.wandb)
    if any(path.exists() for path in kept):
        return True
    return files.checkpoints.is_dir() and not all(map(is_temporary, files.checkpoints.iterdir()))


def recorded(folder: Path) -> dict[str, Any] | None:
    """The configuration of the run in `folder`; None where it cannot be read."""
    path = RunFiles(folder).settings
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning(
            "%s is damaged and is not compared: %s", *map(printable, map(str, (path, error)))
        )
        return None
    recorded_then: dict[str, Any] = migrated({"args": found})["args"]
    return recorded_then


def require_of_run(args: Any, run: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse a checkpoint that another run has written.

    Args:
        args: the configuration in the checkpoint.
        run: that of the folder's run; None is not known.
        path: the checkpoint.

    Raises:
        UserError: they differ.
    """
    if run is None or not isinstance(args, Mapping):
        return
    found = differences(plain(args), run)
    keys = [key for key, _, _ in found if key == "timestamp" or not is_free(key)]
    if keys:
        raise UserError(f"{path}: is of another run ({', '.join(keys)} differ)")


def require_place(
    folder: Path,
    composed: DictConfig,
    overrides: Sequence[str],
    resumes: bool,
    key: str = "hydra.run.dir",
) -> None:
    """Refuse to start a run in a used folder, and to resume one with another configuration.

    Args:
        folder: where the command would write.
        composed: its configuration.
        overrides: what the user typed.
        resumes: whether it resumes what the folder holds.
        key: the setting that names the folder, for the error.

    Raises:
        UserError: names the two ways on, or the differences.
    """
    if not is_used(folder):
        return
    if not resumes:
        raise UserError(
            f"{key}={folder}: a run is in that folder already; checkpoint.resume=auto resumes it, "
            f"another {key} starts a run of its own"
        )
    before = recorded(folder)
    if before is None:  # an earlier version: the checkpoint is compared instead
        return
    now = _settled(configuration(composed, overrides), before)
    if composed.checkpoint.resume is None:
        require_same(now, before, folder)
    else:
        require_same(now, before, folder, f"start a run of its own with another {key}")


def configuration(composed: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """`composed` as a run records it, its shards not yet settled."""
    from perdure.run.target_overrides import drop_unaccepted_options

    composed = composed.copy()
    with open_dict(composed):
        composed.pop("hydra", None)
    config, _ = drop_unaccepted_options(composed, overrides)
    settled: dict[str, Any] = plain(as_plain(typed(config)))
    return settled


def _settled(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with the number of shards that its start would take from the run."""
    training = before.get("training")
    if now["training"].get("shards") is None and isinstance(training, Mapping):
        now["training"]["shards"] = training.get("shards")
    return now
