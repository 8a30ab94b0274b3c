"""`<run>/wandb.json`: the id of the W&B run that mirrors a folder, and what was sent to it."""

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
from perdure.io.run_files import WANDB

logger = logging.getLogger("perdure")

NAME = WANDB
_LIMIT = 8 * 2**20
"""Bytes of it that are read: a few hundred for each checkpoint sent."""


@dataclass
class Record:
    """A run of W&B and what was sent to it.

    Attributes:
        id: the run's id, made once; every process that resumes the run uses it again.
        entity: the team or user; None is the default of the API key, filled in when the run is
            first opened.
        project, name, group, job_type, tags, notes: as W&B shows them.
        config: what people filter runs by, flat.
        inputs: artifacts that the run started from, `entity/project/name:vN`.
        url: of the run's page, once it was opened.
        sent: the checkpoints that the server has: sha256, artifact (`entity/project/name:vN`),
            aliases.
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
        """Write it to the run's folder, atomically."""
        text = json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / NAME, text.encode())

    def artifact_of(self, sha256: str) -> str | None:
        """The artifact that holds the checkpoint of this hash, if one does."""
        artifacts = [entry["artifact"] for entry in self.sent if entry["sha256"] == sha256]
        return artifacts[-1] if artifacts else None


def _finite(value: Any) -> Any:
    """`value` with infinities and NaN, which JSON does not have, as text."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def load(folder: Path) -> Record | None:
    """The record in `folder`; None when the folder was never mirrored, or it cannot be read.

    The folder may have come from elsewhere, and the record decides where something is sent and what
    is shown, so each entry must be what W&B itself would accept.
    """
    try:
        saved = read_json(folder / NAME, _LIMIT)
        if not isinstance(saved, dict) or not {"id", "project"} <= saved.keys():
            raise ValueError("it names no run")
        entries = {key: saved[key] for key in _FIELDS if key in saved}
        for key, value in entries.items():
            if not is_valid(key, value):
                raise ValueError(f"its {key} is not valid")
        return Record(**entries)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        shown = printable(str(folder / NAME)), printable(str(error))
        logger.warning("%s cannot be read and is ignored: %s", *shown)
        return None


_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NAME = re.compile(r"[^/\\#?%:]{1,128}")
_URL = re.compile(r"https?://[!-~]{1,1000}")
_ARTIFACT = re.compile(r"[^/\\#?%:]{1,128}/[^/\\#?%:]{1,128}/[A-Za-z0-9_.-]{1,128}:v[0-9]{1,9}")


def is_valid(key: str, value: Any) -> bool:
    """Whether `value` is valid for the record's entry `key`."""
    return key in _FIELDS and _FIELDS[key](value)


def is_id(value: Any) -> bool:
    """Whether `value` is a valid id of a W&B run."""
    return _is(_ID, value)


def is_artifact(value: Any) -> bool:
    """Whether `value` is `entity/project/name:vN`."""
    return _is(_ARTIFACT, value)


def _is(form: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and form.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    """Whether it is text that a person typed; notes have lines."""
    return isinstance(value, str) and re.sub(r"[\n\t]", "", value).isprintable()


def _optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_sent(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"sha256", "artifact", "aliases"}
        and is_sha256(value["sha256"])
        and is_artifact(value["artifact"])
        and _list_of(is_id)(value["aliases"])
    )


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "id": is_id,
    "project": lambda value: _is(_NAME, value),
    "entity": _optional(lambda value: _is(_NAME, value)),
    "name": _optional(_is_text),
    "group": _optional(_is_text),
    "job_type": _optional(_is_text),
    "tags": _list_of(_is_text),
    "notes": _optional(_is_text),
    "config": lambda value: isinstance(value, dict),
    "inputs": _list_of(is_artifact),
    "url": _optional(lambda value: _is(_URL, value)),
    "sent": _list_of(_is_sent),
    "results_sha256": _optional(is_sha256),
}
"""Entries of the record → the check of their values."""


def new_id(timestamp: str, job: str | None) -> str:
    """A unique id for a run: its timestamp, its number in a sweep, and random digits."""
    return "-".join(filter(None, (timestamp, job, secrets.token_hex(2))))


def name_of(model: str, dataset: str, buffer_size: int | str, seed: int) -> str:
    """The display name of a run to which the user gives none."""
    return f"{model}_{dataset}_{buffer_size}_s{seed}"
