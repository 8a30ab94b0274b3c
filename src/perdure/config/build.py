"""From a group of the configuration to the object it names."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import Any, NewType

from perdure.errors import UserError
from perdure.io.redaction import ADDRESSES

Url = NewType("Url", str)
"""The type of a constructor's parameter that is an address: no checkpoint may set it."""

Reference = NewType("Reference", str)
"""The same for a reference to a checkpoint or to weights: a path, https://…, hf://…, wandb://…"""

_PLAIN: dict[Any, str] = {
    float: "a float",
    int: "an integer",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def build(node: Mapping[str, Any], group: str, *args: Any, **runtime: Any) -> Any:
    """Call the class that `node` names in `_target_` with the rest of `node`.

    Args:
        node: plain values, as composed.
        group: name of the config group, for messages.
        args: positional arguments that only the running program has.
        runtime: the same by keyword; they are passed where the class has such a parameter.

    Raises:
        UserError: the class does not exist, takes no such argument, takes it of another type, or
            needs one that is not there.
    """
    target = locate(node["_target_"], group)
    options = {key: value for key, value in node.items() if key != "_target_"}
    check(target, options, group, len(args), runtime)
    options = _with_paths(target, ADDRESSES.restore_values(options, group))
    return target(*args, **_accepted(target, runtime), **options)


def locate(path: str, group: str) -> Callable[..., Any]:
    """The object at the import path `package.module.Name`."""
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{group}._target_={path}: cannot be imported ({error})") from None
    if not callable(found):
        raise UserError(f"{group}._target_={path}: must be a class or a function")
    return found


def import_from_here() -> None:
    """Let classes be found in the current directory, after all else: `python -m` does so anyway."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def check(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    group: str,
    given: int = 1,
    runtime: Collection[str] = (),
) -> None:
    """Refuse options that `target` does not take, or not of that type, and such that are missing.

    The first `given` parameters, and those named in `runtime`, are not the user's to choose.
    """
    every = list(inspect.signature(target).parameters.items())[given:]
    parameters = {name: p for name, p in every if name not in runtime}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = ", ".join(parameters) or "no options"
    hints = _hints(target)
    for key, value in options.items():
        if key not in parameters:
            raise UserError(f"{group}.{key}={value}: {group} takes {names}")
        if key in hints and not _fits(value, hints[key]):
            raise UserError(f"{group}.{key}={value}: must be {_words(hints[key]) or hints[key]}")
    for key, p in parameters.items():
        if key not in options and p.default is p.empty and p.kind is not p.VAR_POSITIONAL:
            raise UserError(f"{group}.{key} is missing: {group} takes {names}")


def locations(target: Callable[..., Any]) -> Iterator[str]:
    """Names of the parameters that are paths, addresses or references, by their annotation."""
    for name, hint in _hints(target).items():
        if name != "return" and _is_location(hint):
            yield name


def _is_location(hint: Any) -> bool:
    if hint in (Url, Reference):
        return True
    plain = typing.get_origin(hint) or hint
    if isinstance(plain, type) and issubclass(plain, PurePath | PathLike):
        return True
    return any(map(_is_location, typing.get_args(hint)))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    init = getattr(target, "__init__") if inspect.isclass(target) else target  # noqa: B009
    try:
        return typing.get_type_hints(init)
    except (NameError, TypeError):
        return {}


def _with_paths(target: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with text as a path where only a path is annotated."""
    hints = _hints(target)
    texts = {key for key, value in options.items() if isinstance(value, str)}
    paths = {key for key in texts if _is_path(hints.get(key))}
    return {k: Path(v).expanduser() if k in paths else v for k, v in options.items()}


def _is_path(hint: Any) -> bool:
    """Whether a path may be passed where `hint` is annotated, and text may not."""
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    paths = [p for p in parts if isinstance(p, type) and issubclass(Path, p) and p is not object]
    return bool(paths) and str not in parts


def _accepted(target: Callable[..., Any], runtime: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(target).parameters
    return {key: value for key, value in runtime.items() if key in parameters}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be passed where `hint` is annotated; in doubt it may."""
    hint = getattr(hint, "__supertype__", hint)
    if _is_union(hint):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if _is_list(hint):
        return isinstance(value, list | tuple) and _all_fit(value, hint)
    if hint in (int, float):
        number = int if hint is int else int | float
        return isinstance(value, number) and not isinstance(value, bool)
    if isinstance(hint, type) and hint is not Any and typing.get_origin(hint) is None:
        return isinstance(value, hint) or (isinstance(value, str) and _is_path(hint))
    return True


def _all_fit(values: Sequence[Any], hint: Any) -> bool:
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and Ellipsis not in parts:
        return len(values) == len(parts) and all(map(_fits, values, parts))
    return all(_fits(value, parts[0]) for value in values)


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def _is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    known = isinstance(origin, type) and issubclass(origin, Iterable)
    return known and not issubclass(origin, Mapping)


def _words(hint: Any) -> str:
    """What a person may write there; empty for what nobody can write."""
    hint = getattr(hint, "__supertype__", hint)
    if _is_union(hint):
        return " or ".join(dict.fromkeys(filter(None, map(_words, typing.get_args(hint)))))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if _is_list(hint):
        parts = typing.get_args(hint)
        fixed = typing.get_origin(hint) is tuple and Ellipsis not in parts
        return f"a list of {len(parts)}" if fixed else f"a list (each {_words(parts[0])})"
    return _PLAIN.get(hint, "")
