"""Which W&B run mirrors a folder, and what of the folder it has: `<run>/wandb.json`."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perdure.checkpoint.core.sidecars import is_sha256
from perdure.errors import printable
from perdure.io.atomic import write_atomically
from perdure.io.files import read_json

logger = logging.getLogger("perdure")

NAME = "wandb.json"
_LIMIT = 8 * 2**20
"""Bytes of it that are read: a few hundred for each checkpoint sent."""


@dataclass
class Record:
    """A run of W&B and what it has been sent.

    Attributes:
        id: the run's id, made once; every process that goes on with the run uses it again.
        entity: the team or user; none is the key's own, known once the run was first opened.
        project, name, group, job_type, tags, notes: as W&B shows them.
        config: what people filter runs by, flat.
        inputs: artifacts that the run started from, `entity/project/name:vN`.
        url: of the run's page, once known.
        sent: the checkpoints that are there: sha256, artifact (`entity/project/name:vN`), aliases.
        results_sha256: of the results.json that was sent last, not counting those that only go
            with a checkpoint.
    """

    id: str
    project: str
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    url: str | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)
    results_sha256: str | None = None

    def save(self, folder: Path) -> None:
        """Write it to the run's folder, in one step."""
        text = json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / NAME, text.encode())

    def artifact_of(self, sha256: str) -> str | None:
        """The artifact that holds the checkpoint of this hash, if one does."""
        found = [one["artifact"] for one in self.sent if one["sha256"] == sha256]
        return found[-1] if found else None


def _finite(value: Any) -> Any:
    """`value` with infinities and NaN, which JSON does not have, as text."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def load(folder: Path) -> Record | None:
    """The record in `folder`; none when the folder was never mirrored, or it cannot be read.

    The folder may have come from elsewhere: what is in the record decides where something is sent
    and what is shown, so each entry must be what W&B itself would accept.
    """
    try:
        saved = read_json(folder / NAME, _LIMIT)
        if not isinstance(saved, dict) or not {"id", "project"} <= saved.keys():
            raise ValueError("it names no run")
        known = {key: saved[key] for key in _FIELDS if key in saved}
        for key, value in known.items():
            if not is_sound(key, value):
                raise ValueError(f"its {key} is no such value")
        return Record(**known)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        words = printable(str(folder / NAME)), printable(str(error))
        logger.warning("%s cannot be read, so it counts for nothing: %s", *words)
        return None


_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NAME = re.compile(r"[^/\\#?%:]{1,128}")
_URL = re.compile(r"https?://[!-~]{1,1000}")
_ARTIFACT = re.compile(r"[^/\\#?%:]{1,128}/[^/\\#?%:]{1,128}/[A-Za-z0-9_.-]{1,128}:v[0-9]{1,9}")


def is_sound(key: str, value: Any) -> bool:
    """Whether the record's entry `key` can be `value`."""
    return key in _FIELDS and _FIELDS[key](value)


def is_id(value: Any) -> bool:
    """Whether W&B could call a run so."""
    return _is(_ID, value)


def is_artifact(value: Any) -> bool:
    """Whether `value` is `entity/project/name:vN`."""
    return _is(_ARTIFACT, value)


def _is(form: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and form.fullmatch(value) is not None


def _words(value: Any) -> bool:
    """Text that a person typed; notes have lines."""
    return isinstance(value, str) and re.sub(r"[\n\t]", "", value).isprintable()


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _each(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_sent(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"sha256", "artifact", "aliases"}
        and is_sha256(value["sha256"])
        and is_artifact(value["artifact"])
        and _each(is_id)(value["aliases"])
    )


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "id": is_id,
    "project": lambda value: _is(_NAME, value),
    "entity": _or_none(lambda value: _is(_NAME, value)),
    "name": _or_none(_words),
    "group": _or_none(_words),
    "job_type": _or_none(_words),
    "tags": _each(_words),
    "notes": _or_none(_words),
    "config": lambda value: isinstance(value, dict),
    "inputs": _each(is_artifact),
    "url": _or_none(lambda value: _is(_URL, value)),
    "sent": _each(_is_sent),
    "results_sha256": _or_none(is_sha256),
}
"""Entries of the record → whether a value can be that."""


def new_id(timestamp: str, job: str | None) -> str:
    """An id for a run: its time, its number in a sweep, and what tells it from all others."""
    return "-".join(filter(None, (timestamp, job, secrets.token_hex(2))))


def name_of(model: str, dataset: str, buffer_size: int, seed: int) -> str:
    """What a run is called at W&B when the user gives it no name."""
    return f"{model}_{dataset}_{buffer_size}_s{seed}"
