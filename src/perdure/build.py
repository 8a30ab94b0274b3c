"""From a group of the configuration to the object it names."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from perdure.errors import UserError


def build(node: Mapping[str, Any], group: str, *args: Any, **runtime: Any) -> Any:
    """Call the class that `node` names in `_target_` with the rest of `node`.

    Args:
        node: plain values, as composed.
        group: name of the config group, for messages.
        args: positional arguments that only the running program has.
        runtime: the same by keyword; they are passed where the class has such a parameter.

    Raises:
        UserError: the class does not exist, or takes no such argument, or not of that type.
    """
    target = locate(node["_target_"], group)
    options = {key: value for key, value in node.items() if key != "_target_"}
    check(target, options, group, len(args))
    return target(*args, **_accepted(target, runtime), **options)


def locate(path: str, group: str) -> Callable[..., Any]:
    """The object at the import path `package.module.Name`."""
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{group}._target_={path}: cannot be imported ({error})") from None
    return found


def check(
    target: Callable[..., Any], options: Mapping[str, Any], group: str, given: int = 1
) -> None:
    """Refuse options that `target` does not take, or whose type is not the annotated one.

    The first `given` parameters are not the user's to choose.
    """
    parameters = dict(list(inspect.signature(target).parameters.items())[given:])
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    init = getattr(target, "__init__") if inspect.isclass(target) else target  # noqa: B009
    try:
        hints = typing.get_type_hints(init)
    except (NameError, TypeError):
        hints = {}
    for key, value in options.items():
        if key not in parameters:
            names = ", ".join(parameters) or "no options"
            raise UserError(f"{group}.{key}={value}: {group} takes {names}")
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"{group}.{key}={value}: must be {_words(hints[key])}")


def _accepted(target: Callable[..., Any], runtime: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    return {key: value for key, value in runtime.items() if key in parameters}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be passed where `hint` is annotated; in doubt it may."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    return not isinstance(value, str) or typing.get_origin(hint) is None


def _words(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_words(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return names.get(hint, "null" if hint is type(None) else "a list")
