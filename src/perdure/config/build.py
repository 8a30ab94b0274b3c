"""Instantiate the class named in `_target_` with the options beside it, which are checked."""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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
    return make(locate(node["_target_"], group), node, group, *args, **runtime)


def make(
    target: Callable[..., Any], node: Mapping[str, Any], group: str, *args: Any, **runtime: Any
) -> Any:
    """The same with `target`, whatever `node` names."""
    options = accepted(target, node, group, len(args), runtime)
    try:
        return target(*args, **_accepted(target, runtime, options), **options)
    except TypeError as error:
        if not _is_unknown_argument(error):
            raise
        # What a class passes on in its **kwargs only the class that gets it can refuse.
        raise UserError(f"{group}._target_={node['_target_']}: {error}") from error


def accepted(
    target: Callable[..., Any],
    node: Mapping[str, Any],
    group: str,
    given: int = 1,
    runtime: Collection[str] = (),
) -> dict[str, Any]:
    """The options in `node` as `target` takes them; refused as `check` does."""
    options = {key: value for key, value in node.items() if key != "_target_"}
    check(target, options, group, given, runtime)
    return _with_paths(target, ADDRESSES.restore_values(options, group))


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
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    parameters = {name: p for name, p in parameters.items() if p.kind not in _VARIADIC}
    names = ", ".join(parameters) or "no options"
    hints = _hints(target)
    for key, value in options.items():
        if key not in parameters and not takes_any:
            raise UserError(f"{group}.{key}={value}: {group} takes {names}")
        if key in parameters and key in hints and not _fits(value, hints[key]):
            raise UserError(f"{group}.{key}={value}: must be {_words(hints[key]) or hints[key]}")
    for key, p in parameters.items():
        if key not in options and p.default is p.empty:
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
    """The annotated types by parameter; those that only a type checker can look up are left out."""
    init = getattr(target, "__init__") if inspect.isclass(target) else target  # noqa: B009
    try:
        return typing.get_type_hints(init)
    except (NameError, TypeError):
        pass
    found: dict[str, Any] = {}
    # torch imports the names of containers for type checkers alone.
    names = {**vars(collections.abc), **getattr(init, "__globals__", {})}
    for name, hint in getattr(init, "__annotations__", {}).items():
        single = types.SimpleNamespace(__annotations__={name: hint})
        with suppress(NameError, TypeError):
            found |= typing.get_type_hints(single, names)
    return found


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


def _accepted(
    target: Callable[..., Any], runtime: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What of `runtime` `target` takes: by name, or all in `**kwargs` that it passes on."""
    parameters = inspect.signature(target).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {
        key: value
        for key, value in runtime.items()
        if key in parameters or (passes_on and key not in options)
    }


def _is_unknown_argument(error: TypeError) -> bool:
    return "unexpected keyword argument" in str(error)


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
        if fixed:
            return f"a list of {len(parts)}"
        each = _words(parts[0])
        return f"a list (each {each})" if each else "a list"
    return _PLAIN.get(hint, "")
