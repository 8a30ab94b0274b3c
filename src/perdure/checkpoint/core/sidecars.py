"""Sidecars of checkpoints (`<file>.json`): path, read, validate, write (which commits), remove.

A sidecar holds a checkpoint's metadata: size, SHA-256, kind, position. Its presence commits the
file. It proves that a file's bytes are those that somebody committed; it may have come with the
file, from anywhere. So it is read with a limit, each field has its type, unknown fields are
dropped, and the names in it are only those that a run gives its own files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from perdure.checkpoint.core.migrate import migrated_metadata
from perdure.io.atomic import write_json
from perdure.io.files import JSON_LIMIT, read_json

LIMIT = JSON_LIMIT
"""Bytes that a sidecar may have."""

WEIGHTS_ONLY = "weights-only"
"""Kind of a checkpoint from which no run can resume."""

_SUFFIX = ".json"
_KINDS = ("task", "epoch", "step", WEIGHTS_ONLY)
_POSITION = {"task", "epoch", "step", "global_step", "phase", "phase_start"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LARGEST = 2**53
_PROOF = ("format", "bytes", "sha256")


# --- where it is ------------------------------------------------------------------------------


def path_of(checkpoint: Path) -> Path:
    """The sidecar of the file `checkpoint`, whether it is there or not."""
    return checkpoint.with_name(checkpoint.name + _SUFFIX)


def url_of(checkpoint: str) -> str:
    """The address of the sidecar of the file at the address `checkpoint`; a query stays."""
    parts = urlsplit(checkpoint)
    return parts._replace(path=parts.path + _SUFFIX).geturl()


def checkpoints_in(folder: Path) -> Iterator[Path]:
    """The files that have a sidecar in `folder`, by name; whether they are there is not checked."""
    for sidecar in sorted(folder.glob(f"*{_SUFFIX}")):
        yield sidecar.with_name(sidecar.name.removesuffix(_SUFFIX))


# --- reading and writing ----------------------------------------------------------------------


def read(checkpoint: Path) -> dict[str, Any]:
    """The metadata in the sidecar of the file `checkpoint`: at least `format`, `bytes`, `sha256`.

    Raises:
        OSError: it is not there, is no ordinary file, or the system's own error.
        ValueError: it is no valid sidecar.
    """
    return read_file(path_of(checkpoint))


def read_file(sidecar: Path) -> dict[str, Any]:
    """`read` for a sidecar that does not lie beside its file yet."""
    return validated(read_json(sidecar))


def write(checkpoint: Path, metadata: Mapping[str, Any]) -> None:
    """Commit the file `checkpoint`: its sidecar appears, durably. Raises OSError."""
    write_json(path_of(checkpoint), metadata, indent=1)


def remove(checkpoint: Path) -> None:
    """Let the file `checkpoint` no longer count. Raises OSError."""
    path_of(checkpoint).unlink(missing_ok=True)


def validated(value: Any) -> dict[str, Any]:
    """The known fields of `value`, the content of a sidecar, in today's terms.

    Raises:
        ValueError: a field is of another type, or one of the three that prove the bytes is missing.
    """
    metadata = _known(value)
    if not set(_PROOF) <= metadata.keys():
        raise ValueError("no sidecar of a checkpoint")
    return metadata


def is_sha256(value: Any) -> bool:
    """Whether `value` is a SHA-256 in hex."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


# --- validation -------------------------------------------------------------------------------


def _known(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("no sidecar of a checkpoint")
    value = migrated_metadata(value)
    metadata = {key: value[key] for key in _FIELDS if key in value}
    for key, field in metadata.items():
        if not _FIELDS[key](field):
            raise ValueError(f"its {key} is no such value")
    if "siblings" in metadata:
        metadata["siblings"] = [[name, _known(fields)] for name, fields in metadata["siblings"]]
    return metadata


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_number(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable() and len(value) < 256)


def _is_stage(value: Any) -> bool:
    return isinstance(value, str) and _STAGE.fullmatch(value) is not None


def _is_position(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() <= _POSITION
        and all(map(_is_count, value.values()))
    )


def _are_siblings(value: Any) -> bool:
    """[name, metadata] of each other file of the same state; the metadata determine the name."""
    return isinstance(value, list) and all(map(_is_sibling, value))


def _is_sibling(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], Mapping):
        return False
    name, metadata = value[0], migrated_metadata(value[1])
    if any(key in metadata for key in (*_PROOF, "siblings")):
        return False
    metadata = _known(metadata)
    ends = {"epoch": "_full.pth", WEIGHTS_ONLY: ".pth"}.get(metadata.get("kind", ""))
    complete = ends is not None and {"stage", "epoch"} <= metadata.keys()
    return complete and name == f"{metadata['stage']}.{metadata['epoch']}{ends}"


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "format": _is_count,
    "bytes": _is_count,
    "sha256": is_sha256,
    "kind": lambda value: value in _KINDS,
    "stage": _is_stage,
    "epoch": _is_count,
    "position": _is_position,
    "monitor": _is_text,
    "value": _is_number,
    "selected_on": _is_text,
    "siblings": _are_siblings,
}
"""Field of a sidecar → whether a value can be that."""
