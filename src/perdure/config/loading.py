"""What a command line says of the checkpoint it loads, read by Hydra before the run is composed.

Hydra alone knows what `fork=on`, `++checkpoint.load=…`, quotes and `${…}` mean, so the command's
own overrides are composed once to read these few keys.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from perdure.config.compose import compose
from perdure.config.error_messages import explain
from perdure.config.overrides import Arguments, Typed
from perdure.config.schema import CheckpointConfig
from perdure.errors import UserError

_LEFT_OUT = ("hydra", "tracking")
"""Keys that say nothing of a checkpoint; some of theirs exist only once a file's are added."""

_READ = ("checkpoint", "output_root", *(f"checkpoint.{f.name}" for f in fields(CheckpointConfig)))


@dataclass(frozen=True)
class Loading:
    """The keys that decide what is loaded, resolved.

    Attributes:
        checkpoint: the group `checkpoint`.
        output_root: where the folders of runs are.
    """

    checkpoint: CheckpointConfig
    output_root: Path


def loading(command: Arguments) -> Loading:
    """What `command` loads.

    Raises:
        UserError: a value is of the wrong type, or an interpolation in it leads nowhere.
    """
    overrides = [_forced(typed) for typed in command.overrides if _is_read(typed)]
    try:
        config = compose(*command.search_path, *overrides, "timestamp=now")
        checkpoint = OmegaConf.to_object(config.checkpoint)
        root = str(config.output_root)
    except InterpolationResolutionError as error:
        typed = " ".join(t.text for t in command.overrides if t.key in _READ and "${" in t.text)
        raise UserError(f"{typed}: {explain(error)}; \\${{ stands for the characters") from error
    except Exception as error:  # a value or an option that is not there, in Hydra's many ways
        raise UserError(explain(error, command.words)) from error
    assert isinstance(checkpoint, CheckpointConfig)
    return Loading(checkpoint, Path(root).expanduser())


def sets_load(command: Arguments) -> bool:
    """Whether `command` itself names a checkpoint, the same for all runs that it starts."""
    found = [t for t in command.overrides if _names_load(t)]
    if not found or any(t.is_sweep for t in found):
        return False
    return not (command.is_sweep and any("${" in t.text for t in found))


def _names_load(typed: Typed) -> bool:
    value: Any = typed.value
    return typed.key == "checkpoint.load" or (
        typed.key == "checkpoint" and isinstance(value, dict) and "load" in value
    )


def _is_read(typed: Typed) -> bool:
    is_plain = typed.override is not None and not (typed.is_sweep or typed.deletes)
    top = typed.key.replace("/", ".").partition(".")[0]
    return is_plain and typed.package is None and top not in _LEFT_OUT


def _forced(typed: Typed) -> str:
    """The override, so that it applies whether or not the options of today have the key."""
    return "++" + typed.text.lstrip("+") if "." in typed.key else typed.text
