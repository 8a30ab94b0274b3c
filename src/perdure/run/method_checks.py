"""What the class of the method says before it is built: whether it replays, or trains jointly."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from perdure.backbones.base import Backbone
from perdure.buffers.quotas import capacity
from perdure.config.build import accepted, build, locate, make
from perdure.config.method_name import method_name
from perdure.config.overrides import Arguments
from perdure.config.schema import Config, Mode
from perdure.errors import UserError
from perdure.models.addon import AddOn, wrapped
from perdure.models.base import Method
from perdure.models.replay import uses_buffer

_M = TypeVar("_M", bound=Method)


def method_class(config: Config) -> type[Method]:
    """The class that `model._target_` names, with the add-on that `addon._target_` names.

    Raises:
        UserError: it is no method, or no add-on.
    """
    base = _class(config.model, "model", Method)
    if not has_addon(config):
        return base
    return wrapped(_class(config.addon, "addon", AddOn), base)


def has_addon(config: Config) -> bool:
    """Whether an add-on is chosen."""
    return bool(config.addon and config.addon.get("_target_"))


def _class(node: Mapping[str, Any], group: str, kind: type[_M]) -> type[_M]:
    """The class that `node` names, which must be a subclass of `kind`."""
    path = node.get("_target_")
    found = locate(path, group) if isinstance(path, str) else None
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise UserError(
            f"{group}._target_={path}: must be a class derived from "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    return found


def build_method(config: Config, backbone: Backbone, shape: tuple[int, int, int]) -> Method:
    """The method around `backbone`, for images of `shape`.

    Raises:
        UserError: its class, or that of its add-on, does not take its options.
    """
    kind, groups = method_class(config), (config.model, config.addon or {})
    model, addon = ({k: v for k, v in node.items() if k != "name"} for node in groups)
    if not has_addon(config):
        return cast("Method", build(model, "model", backbone))
    base = accepted(_class(model, "model", Method), model, "model")
    return cast("Method", make(kind, addon, "addon", backbone, base=base, input_shape=shape))


def check_method(
    config: Config, overrides: Sequence[str] = (), taken: Collection[str] = ()
) -> None:
    """Refuse a buffer or a mode with which the method cannot be trained.

    Args:
        config: the configuration.
        overrides: the command line, which gives the buffer one size at most.
        taken: keys of it that a checkpoint sets, not the user.

    Raises:
        UserError: names the combination, and what to choose instead.
    """
    method, model, name = method_class(config), config.model["name"], method_name(config)
    if uses_buffer(method) and config.buffer["size"] == 0:
        verb = "replays from" if method.replays else "keeps exemplars in"
        raise UserError(
            f"model={model} with buffer=none: {name} {verb} a buffer; choose buffer=reservoir "
            "or buffer=class-balanced"
        )
    size, per_class = config.buffer["size"], config.buffer.get("per_class")
    sets_size = Arguments(tuple(overrides)).sets("buffer.size") and "buffer.size" not in taken
    if per_class is not None and sets_size:
        raise UserError(
            f"buffer.size={size} with buffer.per_class={per_class}: the capacity is one or the "
            "other; leave buffer.size out, or add buffer.per_class=null"
        )
    budget = config.budget.bytes
    if budget is not None and (per_class is not None or sets_size):
        key = "buffer.size" if per_class is None else "buffer.per_class"
        raise UserError(
            f"budget.bytes={budget} with {key}: both say how large the buffer is; give one of them"
        )
    if has_addon(config) and not method.replays:
        addon = config.addon["name"]
        raise UserError(
            f"addon={addon} with model={model}: {model} draws nothing from a buffer, and {addon} "
            "acts on what is drawn; choose a model that does, as model=er, or addon=none"
        )
    if config.training.mode is Mode.joint and not method.joint:
        raise UserError(
            f"model={model} with training=joint: {name} is not defined for training on all "
            "tasks at once; model=sgd gives the upper bound"
        )


def replay_size(config: Config, n_classes: int) -> int:
    """Examples that the run's buffer can hold, of a benchmark with so many classes.

    0 for a method without a buffer.
    """
    if not uses_buffer(method_class(config)):
        return 0
    return capacity(int(config.buffer["size"]), config.buffer.get("per_class"), n_classes)


def replay_label(config: Config) -> str:
    """The same before the benchmark is there: the size, or the number of examples a class."""
    per_class, budget = config.buffer.get("per_class"), config.budget.bytes
    if uses_buffer(method_class(config)):
        if per_class is not None:
            return f"{per_class}-per-class"
        if budget is not None:
            return f"{budget}-bytes"
    return str(replay_size(config, 0))


def ignored_overrides(config: Config, overrides: Sequence[str]) -> Iterator[str]:
    """A sentence on those that set a buffer for a method without replay."""
    given = [o for o in overrides if o.startswith(("buffer=", "buffer."))]
    if given and not uses_buffer(method_class(config)) and given != ["buffer=none"]:
        yield f"{method_name(config)} keeps no buffer: {', '.join(given)} has no effect"
