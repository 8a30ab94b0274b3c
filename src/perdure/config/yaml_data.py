"""Safe YAML loader: configurations are read as data, interpolations (`${…}`) never resolved.

A resolver runs code, and `${oc.env:…}` reads the environment of whoever opens the file. A plain
reference to another key of the same file is followed; all else stays the text that it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from perdure.errors import UserError
from perdure.io.files import open_plain

LIMIT = 1 << 20
"""Bytes of a file that are read."""

# Both make plain values alone; the one in C is twenty times as fast.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}", re.A)
_DEEPEST = 50
_LONGEST = 1000
_MOST_BITS = 1024


def config(path: Path) -> dict[str, Any]:
    """The configuration in the YAML file `path`.

    Raises:
        UserError: it cannot be read, is larger than 1 MiB, no configuration, or one that unfolds.
    """
    try:
        with open_plain(path, follow=False) as file:
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise UserError(f"{path}: more than {LIMIT:,} bytes, so no configuration of a run")
        _check(path, data)
        found = yaml.load(data, LOADER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: no configuration of a run ({reason})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: no configuration of a run (it holds no keys)")
    return followed(found)


def _check(path: Path, data: bytes) -> None:
    """Refuse, before any value is made, what unfolds (ten lines of aliases give gigabytes)."""
    depth = 0
    for event in yaml.parse(data, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path}: refused: it refers to its own parts by YAML aliases")
        if depth > _DEEPEST:
            raise UserError(f"{path}: no configuration of a run (it is nested too deeply)")


def followed(found: dict[str, Any]) -> dict[str, Any]:
    """`found` with each value that is a reference to another key (`${seed}`) replaced by its value.

    A reference that leads nowhere, to a group of keys, to a long text, or in a circle stays as it
    is; so does one within a longer text.
    """
    return {_text(key): _followed(value, found) for key, value in found.items()}


def _followed(value: Any, root: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {_text(key): _followed(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_followed(inner, root) for inner in value]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _meant(value, root) if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    """A key, or a value of one of YAML's further types, as text."""
    is_long = isinstance(value, int) and value.bit_length() > _MOST_BITS
    return "…" if is_long else str(value)


def _meant(text: str, root: dict[str, Any]) -> Any:
    """The plain value that `text` refers to, at the end of all references; else `text` itself."""
    value: Any = text
    for _ in range(_DEEPEST):
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            is_plain = value is None or isinstance(value, bool | int | float | str)
            is_short = not isinstance(value, str) or value is text or len(value) <= _LONGEST
            return value if is_plain and is_short else text
        value = root
        for key in match[1].split("."):
            if not isinstance(value, dict) or key not in value:
                return text
            value = value[key]
    return text
