"""Resuming from a checkpoint: which one, in which folder, with which configuration.

A reference (`checkpoint.load=…`) is resolved once, into a `Plan` that is passed on. Nothing here
imports torch until a file is really opened.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.config.loading import loading, sets_load
from perdure.config.overrides import Arguments, parse, quoted
from perdure.config.schema import CheckpointConfig
from perdure.config.stored import (
    StoredConfig,
)
from perdure.errors import UserError
from perdure.io.redaction import ADDRESSES
from perdure.io.run_files import CHECKPOINTS, HYDRA, RunFiles
from perdure.io.transfer import DEFAULT_LIMITS, Limits
from perdure.run.identity import recorded, require_of_run

if TYPE_CHECKING:
    from perdure.checkpoint.interop.foreign import Opened
    from perdure.wandb.artifacts import Fetched

log = logging.getLogger("perdure")


@dataclass(frozen=True)
class RestorePoint:
    """A full checkpoint from which a run is resumed or forked.

    Attributes:
        path: the file.
        state: its content, verified.
        fork: whether the run continues elsewhere, as a run of its own.
        home: the folder in which to resume, where that is not the one in which the file lies.
        artifact: the W&B artifact it came from, `entity/project/name:vN`.
        run_id: the W&B run that uploaded it.
        taken: keys of the configuration whose values come from it.
        reference: how the configuration names it; of an alias of W&B, the version it means now.
        not_taken: overrides of the run's first command that this one must type to have them.
    """

    path: Path
    state: dict[str, Any]
    fork: bool = False
    home: Path | None = None
    artifact: str | None = None
    run_id: str | None = None
    taken: frozenset[str] = frozenset()
    reference: str | None = None
    not_taken: tuple[str, ...] = ()

    @property
    def config(self) -> StoredConfig:
        """The configuration in it, which is data and not trusted."""
        return StoredConfig(self.state, self.origin)

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it, or in which it is to be resumed."""
        return self.home or self.path.parent.parent

    @property
    def origin(self) -> str:
        """Where it came from, for people."""
        return f"wandb://{self.artifact}" if self.artifact else str(self.path)

    @property
    def step(self) -> int:
        """Global steps done."""
        return int(self.state["position"]["global_step"])


@dataclass(frozen=True)
class Weights:
    """A file of weights with which a run starts.

    Attributes:
        reference: how the configuration names it.
        opened: its content, verified.
    """

    reference: str
    opened: Opened


_AT_TASK = re.compile(r"([^:]+)@task-(\d+)")
"""A run folder, and one of its tasks; not an address (`hf://…@revision`)."""

Start = RestorePoint | Weights | None
"""From what a run starts: a full checkpoint, weights alone, or nothing."""


@dataclass(frozen=True)
class Plan:
    """A command line, and the checkpoint that it names.

    Attributes:
        typed: the command line as typed.
        words: the same with all that the checkpoint's configuration adds.
        start: the checkpoint.
    """

    typed: Arguments
    words: tuple[str, ...]
    start: Start = None


def limits_of(minutes: Any, gigabytes: Any) -> Limits:
    """What a file, and a transfer as a whole, may take: `checkpoint.max_…`.

    Raises:
        UserError: they are no finite numbers above 0.
    """
    for key, value in (("max_minutes", minutes), ("max_gigabytes", gigabytes)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"checkpoint.{key}={value}: must be a float above 0")
    return Limits(seconds=minutes * 60, n_bytes=int(gigabytes * 1e9))


def latest_intact(folder: Path, limits: Limits = DEFAULT_LIMITS) -> RestorePoint | None:
    """The newest full checkpoint of the run in `folder` that is intact; None if none was written.

    A damaged one is set aside under another name, with a warning, and the one before it is taken.

    Raises:
        UserError: there are some, but none is intact or readable.
    """
    from perdure.checkpoint.core import format as files
    from perdure.checkpoint.core.archive import TooLargeError
    from perdure.checkpoint.core.ledger import IN_ORDER, broken, entries, is_full_name

    home = RunFiles(folder).checkpoints
    full = [entry for entry in entries(home) if entry.full]
    reasons = [f"{path.name}: {why}" for path, why in broken(home) if is_full_name(path.name)]
    run = recorded(folder)
    for entry in reversed(full):
        try:
            state = files.read(entry.path, limits.n_bytes)
            position = state.get("position", {})
            if position and [position.get(key) for key in IN_ORDER] != entry.at:
                raise UserError(f"{entry.path}: damaged (its sidecar names another position)")
            require_of_run(state.get("args"), run, entry.path)
        except (files.NewerFormatError, TooLargeError):  # it may be intact
            raise
        except (UserError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            reasons.append(str(error))
            log.warning("%s; resuming from the one before it", error)
            continue
        for newer in full[full.index(entry) + 1 :]:
            files.set_aside(newer.path)
        return RestorePoint(entry.path, state)
    if reasons:
        raise UserError(f"{folder}: no checkpoint there is intact: {'; '.join(reasons)}")
    return None


# --- references -----------------------------------------------------------------------------------


def resolve(reference: str, root: Path, limits: Limits = DEFAULT_LIMITS) -> RestorePoint | Weights:
    """What `checkpoint.load=reference` names, opened and verified.

    Args:
        reference: a file, a run folder, `latest`, `RUN@task-2` (the end of a task of the run in
            that folder), or a remote reference; redacted.
        root: where runs are, for `latest`.
        limits: of the file, and of its transfer as a whole.

    Raises:
        UserError: there is nothing of the kind.
    """
    from perdure.checkpoint.core.ledger import latest_run
    from perdure.checkpoint.remote import references
    from perdure.wandb import artifacts

    if (branching := _AT_TASK.fullmatch(reference)) and not Path(reference).exists():
        return _at_task_end(Path(branching[1]).expanduser(), int(branching[2]), reference, limits)
    folder = latest_run(root) if reference == "latest" else Path(reference).expanduser()
    if folder.is_dir():
        folder = folder.parent if folder.name == CHECKPOINTS else folder
        point = latest_intact(folder.resolve(), limits)
        if point is None:
            raise UserError(f"checkpoint.load={reference}: that folder has no full checkpoint")
        return replace(point, reference=reference)
    found: list[artifacts.Fetched] = []
    schemes = {**references.SCHEMES, "wandb": artifacts.scheme(found.append)}
    address = ADDRESSES.restore(reference, "checkpoint.load")
    path = references.resolve(address, _cache(), limits=limits, schemes=schemes).resolve()
    if not found:
        return _open(path, reference, limits)
    _, mark, pin = reference.partition("#")
    start = _open(path, found[0].pinned + mark + pin, limits)
    if isinstance(start, RestorePoint) and found[0].place is not None:
        return _of_artifact(start, found[0], root / found[0].place, limits)
    return start


def _at_task_end(folder: Path, task: int, reference: str, limits: Limits) -> RestorePoint | Weights:
    """The checkpoint of the end of `task` of the run in `folder`.

    Raises:
        UserError: there is none.
    """
    from perdure.checkpoint.core.ledger import entries

    home = RunFiles(folder.resolve()).checkpoints
    kept = {entry.stage: entry.path for entry in entries(home) if entry.kind == "task"}
    path = kept.get(f"task{task}")
    if path is None:
        there = ", ".join(f"@{stage.replace('task', 'task-')}" for stage in kept) or "none at all"
        raise UserError(
            f"checkpoint.load={reference}: {home} has no checkpoint of that task's end, but "
            f"{there}; a run with checkpoint.save=true keeps one a task"
        )
    return _open(path, str(path), limits)


def _open(path: Path, reference: str, limits: Limits) -> RestorePoint | Weights:
    from perdure.checkpoint.core.ledger import newest
    from perdure.checkpoint.interop.foreign import open_file

    opened = open_file(path, limits.n_bytes)
    if opened.kind != "perdure":
        return Weights(reference, opened)
    last = newest(path.parent) if path.parent.name == CHECKPOINTS else None
    is_last = last is not None and last.path == path and bool(opened.metadata)
    return RestorePoint(path, opened.content, fork=not is_last, reference=reference)


def _of_artifact(
    fetched: RestorePoint, artifact: Fetched, home: Path, limits: Limits
) -> RestorePoint:
    """A run that lives at W&B is resumed in its own folder, rebuilt where it is missing."""
    from perdure.checkpoint.core.ledger import newest

    home = home.absolute()
    point = replace(
        fetched,
        fork=not artifact.newest,
        home=home,
        artifact=artifact.artifact,
        run_id=artifact.run_id,
    )
    if point.fork or newest(RunFiles(home).checkpoints) is None:
        return point
    local = latest_intact(home, limits)
    _require_same_run(home, local, point)
    if local is None or local.step < point.step:
        return point
    log.info("%s stands as far as %s: resuming from the folder", home, point.reference)
    return replace(local, reference=point.reference)


def _require_same_run(home: Path, local: RestorePoint | None, remote: RestorePoint) -> None:
    from perdure.wandb import record as records

    record = records.load(home)
    # One that was never mirrored has no record; its folder may be called the same.
    timestamps = {point.state["args"]["timestamp"] for point in (local, remote) if point}
    if len(timestamps) > 1 or (record is not None and record.id != remote.run_id):
        raise UserError(
            f"{home}: another run is there, so that of {remote.reference} cannot be resumed in "
            "this folder; choose another output_root, or checkpoint.fork=true"
        )


def _cache() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("PERDURE_CACHE", "~/.cache/perdure")).expanduser() / "fetched"


def weights_of(start: Start, reference: str, limits: Limits) -> Weights:
    """The weights that `checkpoint.load=reference` names; `start` where these are they.

    Raises:
        UserError: there are none, or it is a full checkpoint.
    """
    if isinstance(start, Weights) and start.reference == reference:
        return start
    found = resolve(reference, Path("outputs"), limits)
    if isinstance(found, RestorePoint):
        raise UserError(
            f"checkpoint.load={reference}: is a full checkpoint, which resumes one run; a sweep "
            "can start from a weights-only checkpoint (best.pth)"
        )
    return found


# --- the command line -----------------------------------------------------------------------------


def plan(words: Sequence[str]) -> Plan:
    """The command line that resumes from the checkpoint named in `words`, and that checkpoint.

    To resume: what the file's configuration may say (`config.stored`), the folder in which the file
    lies and the run's timestamp, then what the user typed (the last one wins). A fork gets a folder
    of its own.

    Raises:
        UserError: the checkpoint cannot be loaded, or the command makes no sense with it.
    """
    command = Arguments(tuple(words))
    if command.only_shows or not sets_load(command):
        return Plan(command, tuple(words))
    read = loading(command)
    options = read.checkpoint
    if not options.load:
        return Plan(command, tuple(words))
    limits = limits_of(options.max_minutes, options.max_gigabytes)
    start = resolve(options.load, read.output_root, limits)
    # The recorded configuration names one version, and a requeued job loads the same.
    load = f"checkpoint.load={quoted(start.reference)}"
    typed = [load if t.key == "checkpoint.load" else t.text for t in command.overrides]
    if isinstance(start, Weights) or _branches(command, options):
        return Plan(command, (*command.flags, *typed), start)
    start, stored = _with_configuration(start, command, options)
    place = [] if start.fork else _place_of(start)
    return Plan(command, (*command.flags, *stored, *place, *typed), start)


def _branches(command: Arguments, options: CheckpointConfig) -> bool:
    """Whether each job of a sweep, in a process of its own, forks the checkpoint."""
    return command.is_sweep and options.fork


def _with_configuration(
    point: RestorePoint, command: Arguments, options: CheckpointConfig
) -> tuple[RestorePoint, Sequence[str]]:
    """The checkpoint as `command` resumes it, and the overrides that its configuration gives."""
    reference = str(options.load)
    if command.is_sweep:
        raise UserError(
            f"checkpoint.load={reference} with -m: a full checkpoint resumes one run; a sweep can "
            "start from a weights-only checkpoint (best.pth), or branch from a full one "
            "(checkpoint.fork=true)"
        )
    if command.value("checkpoint.resume") is not None and not options.fork:
        raise UserError(
            "checkpoint.load with checkpoint.resume: the first names the state of a run, the "
            "second looks for one in the run's own folder; give one of them, or add "
            "checkpoint.fork=true: the fork is resumed where it stands already"
        )
    if options.fork:
        point = replace(point, fork=True)
    stored, taken = point.config.overrides(command, point.fork)
    point = replace(point, taken=taken)
    address = reference.removeprefix("wandb://")
    if address != reference and not any(t.key == "tracking" for t in command.overrides):
        # The address that was typed says where the run is mirrored.
        entity, project, _ = address.split("/", 2)
        stored += [
            "tracking=wandb",
            f"tracking.wandb.entity={quoted(entity)}",
            f"tracking.wandb.project={quoted(project)}",
        ]
    set_here = {*(t.key for t in command.overrides), *(parse(text).key for text in stored)}
    return replace(point, not_taken=point.config.not_taken(set_here)), stored


def _place_of(point: RestorePoint) -> list[str]:
    """Overrides for the folder and the timestamp of a run that is resumed."""
    place = [
        f"timestamp={quoted(point.config.timestamp)}",
        f"hydra.run.dir={quoted(str(point.run))}",
    ]
    if RunFiles(point.run).hydra.is_dir():  # what the run was started with stays as it was
        n = 1 + len(list(RunFiles(point.run).hydra.glob("resume-*")))
        place.append(f"hydra.output_subdir={HYDRA}/resume-{n}")
    return place
