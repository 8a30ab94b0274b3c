"""What the class of the method says before it is built: whether it replays, or trains jointly."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from perdure.config.build import locate
from perdure.config.schema import Config, Mode
from perdure.errors import UserError
from perdure.models.base import Method


def method_class(config: Config) -> type[Method]:
    """The class that `model._target_` names.

    Raises:
        UserError: it is no method.
    """
    path = config.model.get("_target_")
    found = locate(path, "model") if isinstance(path, str) else None
    if not (inspect.isclass(found) and issubclass(found, Method)):
        raise UserError(
            f"model._target_={path}: must be a class derived from perdure.models.base.Method"
        )
    return found


def check_method(config: Config) -> None:
    """Refuse a buffer or a mode with which the method cannot be trained.

    Raises:
        UserError: names the combination, and what to choose instead.
    """
    method, name = method_class(config), config.model["name"]
    if method.replays and config.buffer["size"] == 0:
        raise UserError(
            f"model={name} with buffer=none: {name} replays from a buffer; choose buffer=reservoir "
            "or buffer=class-balanced"
        )
    if config.training.mode is Mode.joint and not method.joint:
        raise UserError(
            f"model={name} with training=joint: {name} is not defined for training on all "
            "tasks at once; model=sgd gives the upper bound"
        )


def replay_size(config: Config) -> int:
    """Capacity of the buffer that the run uses: 0 for a method without replay."""
    return int(config.buffer["size"]) if method_class(config).replays else 0


def ignored_overrides(config: Config, overrides: Sequence[str]) -> Iterator[str]:
    """A sentence on those that set a buffer for a method without replay."""
    given = [o for o in overrides if o.startswith(("buffer=", "buffer."))]
    if given and not method_class(config).replays and given != ["buffer=none"]:
        yield f"{config.model['name']} keeps no buffer: {', '.join(given)} has no effect"
