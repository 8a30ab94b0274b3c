"""Evaluation of any checkpoint without training: accuracy, confusion, calibration, predictions.

The configuration is composed as for a fork of the checkpoint, under the same rules for what a file
may say. Neither the checkpoint nor the folder of its run is changed; docs/evaluation.md has more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import ledger
from perdure.config.compose import compose, run_timestamp
from perdure.config.loading import loading
from perdure.config.overrides import Arguments, quoted
from perdure.config.schema import Config
from perdure.config.trust import refuse_locations
from perdure.config.typed import as_plain, typed
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.io.files import require_own
from perdure.io.redaction import ADDRESSES
from perdure.io.run_files import CHECKPOINTS, RunFiles
from perdure.ranks import environment
from perdure.run import device_setup
from perdure.run.folder import RunFolder
from perdure.run.measurement import Measurement, Request
from perdure.run.resume import RestorePoint, Weights, limits_of, resolve
from perdure.run.target_overrides import drop_unaccepted_options
from perdure.training.clock import Clock


@dataclass(frozen=True)
class Outcome:
    """What was measured.

    Attributes:
        folder: where it was written.
        results: what results.json holds.
        notices: what the user should know.
    """

    folder: Path
    results: dict[str, Any]
    notices: tuple[str, ...]


def evaluate(request: Request) -> Outcome:
    """Measure a checkpoint, and write a run-like folder of what was found.

    Raises:
        UserError: the checkpoint, the configuration, the data or the disk does not allow it.
    """
    if environment.world_size() > 1:
        raise UserError("perdure evaluate: runs in one process; start it without torchrun")
    clock = Clock()
    command = Arguments((*request.words, f"checkpoint.load={quoted(request.reference)}"))
    read = loading(command)
    limits = limits_of(read.checkpoint.max_minutes, read.checkpoint.max_gigabytes)
    with tempfile.TemporaryDirectory() as nowhere:
        # A run of W&B is looked for below the root: what it names is measured, not a local copy.
        start = resolve(_file_of(request.reference, read.output_root), Path(nowhere), limits)
    config, notices = _composed(command, start)
    measurement = Measurement(config, start, request)
    notices = [*notices, *measurement.load()]
    with run_timestamp.reserving():
        timestamp = run_timestamp(str(read.output_root))
    folder = RunFolder(read.output_root / timestamp)
    require_own(folder.path)
    lock = folder.new_lock()
    lock.acquire()
    try:
        results = measurement.run(folder.path, timestamp, clock, notices)
        folder.write_status("finished", 0)
    except BaseException:
        lock.release()
        folder.discard_if_fresh()
        raise
    lock.release()
    return Outcome(folder.path, results, tuple(notices))


def _file_of(reference: str, root: Path) -> str:
    """The newest intact full checkpoint of a run folder; other references as they are.

    Who resumes sets damaged files aside; here they stay where they are.
    """
    folder = ledger.latest_run(root) if reference == "latest" else Path(reference).expanduser()
    if not folder.is_dir():
        return reference
    home = folder if folder.name == CHECKPOINTS else RunFiles(folder).checkpoints
    reasons = []
    for entry in reversed([entry for entry in ledger.entries(home) if entry.full]):
        try:
            files.verify(entry.path)
        except files.NewerFormatError:
            raise
        except UserError as error:
            reasons.append(str(error))
            continue
        return str(entry.path)
    why = "; ".join(reasons) or "that folder has no full checkpoint"
    raise UserError(f"checkpoint={reference}: {why}")


def _composed(command: Arguments, start: RestorePoint | Weights) -> tuple[Config, list[str]]:
    """The configuration with which the checkpoint is measured, and sentences on it.

    Raises:
        UserError: it makes no sense, or the file names what no file may.
    """
    own = [t.text for t in command.overrides if t.key != "checkpoint.load"]
    stored: Sequence[str] = ()
    if isinstance(start, RestorePoint):
        stored, taken = start.config.overrides(command, fork=True)
        start = replace(start, taken=taken)
    # How far a run would train says nothing of what is measured.
    fixed = ("dataset.stop_after=null", "timestamp=now")
    composed = compose(*command.search_path, *stored, *own, *fixed)
    ADDRESSES.redact_config(composed)
    validate(composed)
    composed, left_out = drop_unaccepted_options(composed, own)
    config = typed(composed)
    if isinstance(start, RestorePoint):
        allowed = config.checkpoint.allow
        refuse_locations(as_plain(config), start.taken, allowed, start.origin)
        if config.threads is None:  # the kernels of the run itself, and so its bits
            before = device_setup.threads_before(replace(start, fork=False))
            config = replace(config, threads=before)
    return config, left_out
