"""Upload of a finished, offline or interrupted run's folder to W&B; sends only what W&B lacks."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.checkpoint.core.format import committed
from perdure.checkpoint.core.ledger import Entry, entries
from perdure.checkpoint.core.lock import RunLock
from perdure.config import yaml_data
from perdure.errors import UserError
from perdure.io.files import digest, read_json
from perdure.io.run_files import RESULTS_LIMIT, RunFiles
from perdure.wandb import record as records
from perdure.wandb.mirror import Mirror
from perdure.wandb.record import Record, is_id, name_of, new_id
from perdure.wandb.rows import flat_config
from perdure.wandb.session import MirrorError, Session, SessionLimits
from perdure.wandb.upload_queue import UploadQueue


def sync(
    folder: Path,
    *,
    project: str | None = None,
    entity: str | None = None,
    artifacts: bool = True,
    seconds: float = 600.0,
    notify: Callable[[str], None] = print,
) -> str:
    """Bring W&B to what the run in `folder` holds; safe to repeat, and after any kill.

    Args:
        folder: a run's folder, whether it was mirrored, offline, or never meant for W&B.
        project: of a run that W&B does not have yet; None is as it was configured, else
            `perdure`.
        entity: likewise; None is the default of the API key.
        artifacts: whether its checkpoints and results are uploaded too.
        seconds: how long uploads may take.
        notify: shows a sentence to the user.

    Returns:
        The page of the run.

    Raises:
        UserError: it is no run's folder, or not writable, the run is still training, or W&B refuses
            it.
    """
    results = _results(folder)
    lock = RunLock(folder)
    try:
        lock.acquire()
    except OSError as error:
        raise UserError(f"{folder}: cannot write there ({error.strerror})") from error
    try:
        record = records.load(folder) or _new_record(folder, results, project or "perdure", entity)
        _apply_address(record, project, entity, folder)
        queue = UploadQueue(folder)
        if artifacts:
            _enqueue_missing(folder, record, queue)
        try:
            return _push(folder, record, queue, results, time.monotonic() + seconds, notify)
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
    queue: UploadQueue,
    results: dict[str, Any],
    deadline: float,
    notify: Callable[[str], None],
) -> str:
    session = Session(record, folder, SessionLimits(finish=60.0))
    mirror = Mirror(folder, record, session, queue, notify)
    mirror.open()
    n_uploads = len(queue.pending())
    try:
        mirror.push_end(results)
        while queue.pending() and time.monotonic() < deadline:
            if not mirror.push_upload():
                time.sleep(0.2)
    finally:
        arrived = mirror.close(results)
    unsent = queue.pending()
    if unsent or not arrived:
        what = _counted(len(unsent)) if unsent else "the last rows"
        raise MirrorError(f"{what} did not arrive in time; the same command sends the rest")
    notify(f"{folder}: {_counted(n_uploads)} sent, all is at {record.url}")
    return record.url or ""


def _counted(uploads: int) -> str:
    return f"{uploads} upload{'s' * (uploads != 1)}"


def _results(folder: Path) -> dict[str, Any]:
    path = RunFiles(folder).results
    try:
        results: dict[str, Any] = read_json(path, RESULTS_LIMIT)
        if not is_id(results["timestamp"]) or not is_id(results["status"]):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder}: no run's folder (it holds no results.json)") from None
    invalid = [key for key, is_valid in _RESULTS.items() if not is_valid(results.get(key))]
    if invalid:
        raise UserError(f"{path}: its {invalid[0]} is not valid; no run writes such a value")
    return results


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**53)


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _are_metrics(value: Any) -> bool:
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
    "average_accuracy": _are_metrics,
    "forgetting": _are_metrics,
    "backward_transfer": _are_metrics,
    "forward_transfer": _are_metrics,
    "seconds": _are_metrics,
    "cpu_seconds": _are_metrics,
    "global_step": _is_count,
    "tasks_done": _is_count,
    "buffer_size": _is_count,
    "seed": _is_count,
    "environment": lambda value: isinstance(value, dict | None),
}
"""Entries of results.json that are sent → the check of their values."""


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
    """The run's configuration as it was composed; its interpolations stay text."""
    path = RunFiles(folder).config
    if not os.path.lexists(path):
        return {}
    return {**yaml_data.config(path), "timestamp": _results(folder)["timestamp"]}


def _apply_address(record: Record, project: str | None, entity: str | None, folder: Path) -> None:
    """Set project and entity of a run that W&B does not have yet; those of any other are fixed."""
    if record.url is None:
        record.project, record.entity = project or record.project, entity or record.entity
    for key, requested, recorded in (
        ("project", project, record.project),
        ("entity", entity, record.entity),
    ):
        if requested is not None and requested != recorded:
            raise UserError(
                f"{folder}: is mirrored in {key} {recorded}, so not in {requested}; remove "
                f"{folder / records.NAME} to send it as a new run"
            )


def _enqueue_missing(folder: Path, record: Record, queue: UploadQueue) -> None:
    """Queue what the folder keeps and W&B lacks: each state once, with all its aliases."""
    pending = [p.metadata["sha256"] for p in queue.pending() if p.checkpoint is not None]
    present = {*pending, *(entry["sha256"] for entry in record.sent)}
    full = [entry for entry in entries(RunFiles(folder).checkpoints) if entry.full]
    last = pending[-1] if pending else None
    for entry in full:
        sha256 = _hash_of(entry)
        # The newest is always sent last, if need be again: the alias `latest` is that of the upload
        # that was sent last.
        again = entry is full[-1] and last not in (None, sha256)
        if again or (_is_version(entry, full) and sha256 not in present):
            try:
                queue.add_checkpoint(entry.path)
            except (OSError, ValueError) as error:
                raise UserError(f"{entry.path}: cannot be queued for upload ({error})") from error
            present.add(sha256)
            last = sha256
    if record.results_sha256 != digest(RunFiles(folder).results):
        queue.add_results()


def _hash_of(entry: Entry) -> str:
    return str(committed(entry.path)["sha256"])


def _is_version(entry: Entry, full: list[Entry]) -> bool:
    """Whether the state becomes a version: a task's end, the best of all, or the newest."""
    best = entry.path.with_name("best_full.pth")
    return entry.kind == "task" or entry is full[-1] or best.resolve() == entry.path.resolve()
