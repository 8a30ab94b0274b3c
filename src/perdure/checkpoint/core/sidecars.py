"""Sidecars of checkpoints (`<file>.json`): read whatever is in them, and believed only as facts.

A sidecar proves that a file's bytes are those that somebody committed; it may have come with the
file, from anywhere. So it is read with a limit, each field has its type, what is not known is
dropped, and the names in it are only those that a run gives its own files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.io.files import JSON_LIMIT, read_json

LIMIT = JSON_LIMIT
"""Bytes that a sidecar may have."""

_KINDS = ("task", "epoch", "step", "light")
_PLACE = {"task", "epoch", "step", "global_step"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LARGEST = 2**53
_NESTED = ("format", "bytes", "sha256", "twins")


def read(path: Path) -> dict[str, Any]:
    """What the sidecar `path` says: at least `format`, `bytes` and `sha256`.

    Raises:
        OSError: it is not there, is no ordinary file, or the system's own error.
        ValueError: it is no sidecar.
    """
    return checked(read_json(path))


def checked(value: Any) -> dict[str, Any]:
    """What is known of `value`, the content of a sidecar; raises ValueError."""
    about = _known(value)
    if not {"format", "bytes", "sha256"} <= about.keys():
        raise ValueError("no sidecar of a checkpoint")
    return about


def _known(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("no sidecar of a checkpoint")
    about = {key: value[key] for key in _FIELDS if key in value}
    for key, fact in about.items():
        if not _FIELDS[key](fact):
            raise ValueError(f"its {key} is no such value")
    return about


def is_sha256(value: Any) -> bool:
    """Whether `value` is a SHA-256 in hex."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _number(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _words(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable() and len(value) < 256)


def _stage(value: Any) -> bool:
    return isinstance(value, str) and _STAGE.fullmatch(value) is not None


def _position(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and value.keys() <= _PLACE and all(map(_count, value.values()))
    )


def _twins(value: Any) -> bool:
    """[name, facts] of each other file of the same state; the facts say what the name must be."""
    return isinstance(value, list) and all(map(_twin, value))


def _twin(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], Mapping):
        return False
    name, facts = value
    if any(key in facts for key in _NESTED):
        return False
    about = _known(facts)
    ends = {"epoch": "_full.pth", "light": ".pth"}.get(about.get("kind", ""))
    whole = ends is not None and {"stage", "epoch"} <= about.keys()
    return whole and name == f"{about['stage']}.{about['epoch']}{ends}"


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "format": _count,
    "bytes": _count,
    "sha256": is_sha256,
    "kind": lambda value: value in _KINDS,
    "stage": _stage,
    "epoch": _count,
    "position": _position,
    "monitor": _words,
    "value": _number,
    "selected_on": _words,
    "twins": _twins,
}
"""What a sidecar may say → whether a value can be that."""
