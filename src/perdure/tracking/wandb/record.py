"""Which W&B run mirrors a folder, and what of the folder it has: `<run>/wandb.json`."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from perdure.tracking.atomic import write_atomically

NAME = "wandb.json"


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
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_atomically(folder / NAME, text.encode())

    def artifact_of(self, sha256: str) -> str | None:
        """The artifact that holds the checkpoint of this hash, if one does."""
        found = [one["artifact"] for one in self.sent if one["sha256"] == sha256]
        return found[-1] if found else None


def load(folder: Path) -> Record | None:
    """The record in `folder`; none when the folder was never mirrored, or it cannot be read."""
    try:
        saved = json.loads((folder / NAME).read_text())
        known = {f.name for f in fields(Record)}
        return Record(**{key: value for key, value in saved.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def new_id(timestamp: str, job: str | None) -> str:
    """An id for a run: its time, its number in a sweep, and what tells it from all others."""
    return "-".join(filter(None, (timestamp, job, secrets.token_hex(2))))


def name_of(model: str, dataset: str, buffer_size: int, seed: int) -> str:
    """What a run is called at W&B when the user gives it no name."""
    return f"{model}_{dataset}_{buffer_size}_s{seed}"
