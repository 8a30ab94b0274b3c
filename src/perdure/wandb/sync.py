"""Sends to W&B what a run's folder holds and W&B lacks; what is there already is not sent again."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.checkpoint.core.format import committed
from perdure.checkpoint.core.ledger import Entry, entries, folder_of
from perdure.checkpoint.core.lock import RunLock
from perdure.config import yaml_data
from perdure.errors import UserError
from perdure.io.files import digest, read_json
from perdure.wandb import record as records
from perdure.wandb.mirror import Mirror
from perdure.wandb.record import Record, is_id, name_of, new_id
from perdure.wandb.rows import flat_config
from perdure.wandb.session import Limits, MirrorError, Session
from perdure.wandb.upload_queue import Outbox

_LARGEST = 64 * 2**20
"""Bytes of results.json that are read."""


def sync(
    folder: Path,
    *,
    project: str | None = None,
    entity: str | None = None,
    artifacts: bool = True,
    seconds: float = 600.0,
    say: Callable[[str], None] = print,
) -> str:
    """Bring W&B to what the run in `folder` holds; safe to repeat, and after any kill.

    Args:
        folder: a run's folder, whether it was mirrored, offline, or never meant for W&B.
        project: where a run that W&B does not know yet goes; none is as it was configured, else
            `perdure`.
        entity: likewise; none is the key's own.
        artifacts: whether its checkpoints and results are uploaded too.
        seconds: how long uploads may go on.
        say: shows a sentence.

    Returns:
        The page of the run.

    Raises:
        UserError: it is no run's folder, or may not be written, the run is going on, or W&B does
            not take it.
    """
    results = _results(folder)
    lock = RunLock(folder)
    try:
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror})") from error
    try:
        record = records.load(folder) or _new_record(folder, results, project or "perdure", entity)
        _place(record, project, entity, folder)
        outbox = Outbox(folder)
        if artifacts:
            _pack(folder, record, outbox)
        try:
            return _push(folder, record, outbox, results, time.monotonic() + seconds, say)
        except MirrorError as error:
            raise UserError(f"{folder}: not sent: {error}") from error
        except json.JSONDecodeError as error:
            damaged = "metrics.jsonl is damaged (a line is no JSON)"
            raise UserError(f"{folder}: not sent: {damaged}") from error
    finally:
        lock.release()


def _push(
    folder: Path,
    record: Record,
    outbox: Outbox,
    results: dict[str, Any],
    deadline: float,
    say: Callable[[str], None],
) -> str:
    session = Session(record, folder, Limits(finish=60.0))
    mirror = Mirror(folder, record, session, outbox, say)
    mirror.open()
    waiting = outbox.waiting()
    try:
        mirror.push_end(results)
        while outbox.waiting() and time.monotonic() < deadline:
            if not mirror.push_parcel():
                time.sleep(0.2)
    finally:
        arrived = mirror.close(results)
    unsent = outbox.waiting()
    if unsent or not arrived:
        what = _counted(len(unsent)) if unsent else "the last rows"
        raise MirrorError(f"{what} did not arrive in time; the same command goes on")
    say(f"{folder}: {_counted(len(waiting))} sent, all is at {record.url}")
    return record.url or ""


def _counted(uploads: int) -> str:
    return f"{uploads} upload{'s' * (uploads != 1)}"


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results: dict[str, Any] = read_json(path, _LARGEST)
        known = results["timestamp"], results["status"]
        if not all(map(is_id, known)):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: no run's folder (it holds no results.json)") from None
    wrong = [key for key, is_sound in _RESULTS.items() if not is_sound(results.get(key))]
    if wrong:
        raise UserError(f"{path}: its {wrong[0]} is none that a run writes")
    return results


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**53)


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _are_figures(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _are_matrices(value: Any) -> bool:
    if not isinstance(value, dict | None):
        return False
    rows = [row for matrix in (value or {}).values() for row in _listed(matrix)]
    return all(isinstance(row, list) and all(map(_is_number, row)) for row in rows)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


_RESULTS: Mapping[str, Callable[[Any], bool]] = {
    "accuracy_matrix": _are_matrices,
    "average_accuracy": _are_figures,
    "forgetting": _are_figures,
    "backward_transfer": _are_figures,
    "forward_transfer": _are_figures,
    "seconds": _are_figures,
    "cpu_seconds": _are_figures,
    "global_step": _is_count,
    "tasks_done": _is_count,
    "buffer_size": _is_count,
    "seed": _is_count,
    "environment": lambda value: isinstance(value, dict | None),
}
"""Entries of results.json that are sent → whether a value can be that."""


def _new_record(folder: Path, results: dict[str, Any], project: str, entity: str | None) -> Record:
    job = folder.name if re.fullmatch("[0-9]{1,18}", folder.name) else None
    record = Record(
        id=new_id(results["timestamp"], job),
        project=project,
        entity=entity,
        name=name_of(
            str(results.get("model")),
            str(results.get("dataset")),
            results.get("buffer_size") or 0,
            results.get("seed") or 0,
        ),
        group=folder.absolute().parent.name if job else None,
        job_type="train",
        config=flat_config(_args(folder), results),
    )
    record.save(folder)
    return record


def _args(folder: Path) -> dict[str, Any]:
    """The run's configuration, as it was composed: as text, whatever it asks to be resolved."""
    path = folder / ".hydra" / "config.yaml"
    if not os.path.lexists(path):
        return {}
    return {**yaml_data.config(path), "timestamp": _results(folder)["timestamp"]}


def _place(record: Record, project: str | None, entity: str | None, folder: Path) -> None:
    """A run that W&B does not know yet goes where one says; any other stays where it is."""
    if record.url is None:
        record.project, record.entity = project or record.project, entity or record.entity
    for key, wanted, known in (
        ("project", project, record.project),
        ("entity", entity, record.entity),
    ):
        if wanted is not None and wanted != known:
            raise UserError(
                f"{folder}: is mirrored in {key} {known}, so not in {wanted}; remove "
                f"{folder / records.NAME} to send it as a new run"
            )


def _pack(folder: Path, record: Record, outbox: Outbox) -> None:
    """Put into the outbox what the folder keeps and W&B lacks: a state once, with all its names."""
    waiting = [p.about["sha256"] for p in outbox.waiting() if p.checkpoint is not None]
    known = {*waiting, *(one["sha256"] for one in record.sent)}
    full = [entry for entry in entries(folder_of(folder)) if entry.full]
    last = waiting[-1] if waiting else None
    for entry in full:
        sha256 = _hash_of(entry)
        # The newest always closes the row: `latest` must not stay with what is sent after it.
        again = entry is full[-1] and last not in (None, sha256)
        if again or (_lasts(entry, full) and sha256 not in known):
            try:
                outbox.add_checkpoint(entry.path)
            except (OSError, ValueError) as error:
                raise UserError(f"{entry.path}: cannot be kept for the upload ({error})") from error
            known.add(sha256)
            last = sha256
    if record.results_sha256 != digest(folder / "results.json"):
        outbox.add_results()


def _hash_of(entry: Entry) -> str:
    return str(committed(entry.path)["sha256"])


def _lasts(entry: Entry, full: list[Entry]) -> bool:
    """Whether the state is worth a version: a task's end, the best of all, or the newest."""
    best = entry.path.with_name("best_full.pth")
    return entry.kind == "task" or entry is full[-1] or best.resolve() == entry.path.resolve()
