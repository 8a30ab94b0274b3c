"""Going on from a checkpoint: which one, in which folder, with which configuration.

Nothing here imports torch until a file is really opened.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import pickle
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.config.overrides import Arguments, parse, quoted
from perdure.config.stored import NOT_STORED, StoredConfig, classes_to_allow, is_free, listed
from perdure.errors import UserError
from perdure.io.transfer import DEFAULT_LIMITS, Limits

log = logging.getLogger("perdure")


@dataclass(frozen=True)
class Source:
    """A full checkpoint to go on from.

    Attributes:
        path: the file.
        state: what is in it, verified.
        fork: whether the run goes on elsewhere, as a run of its own.
        home: the folder in which to continue, where that is not the one it lies in.
        artifact: the W&B artifact it came from, `entity/project/name:vN`.
        run_id: the W&B run that sent it there.
        taken: keys of the configuration whose values come from it.
    """

    path: Path
    state: dict[str, Any]
    fork: bool = False
    home: Path | None = None
    artifact: str | None = None
    run_id: str | None = None
    taken: frozenset[str] = frozenset()

    @property
    def config(self) -> StoredConfig:
        """The configuration in it, which is data and not trusted."""
        return StoredConfig(self.state, self.origin)

    @property
    def run(self) -> Path:
        """The folder of the run that wrote it, or in which it is to be continued."""
        return self.home or self.path.parent.parent

    @property
    def origin(self) -> str:
        """Where it came from, for people."""
        return f"wandb://{self.artifact}" if self.artifact else str(self.path)

    @property
    def step(self) -> int:
        """Global steps done."""
        return int(self.state["position"]["global_step"])


def limits_of(minutes: Any, gigabytes: Any) -> Limits:
    """What a file, and a transfer as a whole, may take: `checkpoint.max_…`.

    Raises:
        UserError: they are no finite numbers above 0.
    """
    for key, value in (("max_minutes", minutes), ("max_gigabytes", gigabytes)):
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"checkpoint.{key}={value}: must be a number above 0")
    return Limits(seconds=minutes * 60, n_bytes=int(gigabytes * 1e9))


def good(folder: Path, limits: Limits = DEFAULT_LIMITS) -> Source | None:
    """The newest full checkpoint of the run in `folder` that is intact; none if none was written.

    A damaged one is set aside under another name, with a warning, and the one before it is taken.

    Raises:
        UserError: there are some, but none is intact or readable.
    """
    from perdure.checkpoint.core import format as files
    from perdure.checkpoint.core.archive import TooLargeError
    from perdure.checkpoint.core.ledger import entries, folder_of

    full = [entry for entry in entries(folder_of(folder)) if entry.full]
    reasons = []
    for entry in reversed(full):
        try:
            state = files.read(entry.path, limits.n_bytes)
            if list(state.get("position", {}).values()) not in ([], entry.at):
                raise UserError(f"{entry.path}: damaged (its sidecar names another position)")
        except (files.NewerFormatError, TooLargeError):  # it may be whole
            raise
        except (UserError, OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            reasons.append(str(error))
            log.warning("%s; going on from the one before it", error)
            continue
        for bad in full[full.index(entry) + 1 :]:
            files.set_aside(bad.path)
        return Source(entry.path, state)
    if full:
        raise UserError(f"{folder}: no checkpoint there is intact: {'; '.join(reasons)}")
    return None


def find(reference: str, root: Path, limits: Limits = DEFAULT_LIMITS) -> Source | Path:
    """What `checkpoint.load=reference` names: a state to go on from, or a file of weights.

    Args:
        reference: a file, a run folder, `latest`, or a remote reference.
        root: where runs are, for `latest`.

    Raises:
        UserError: there is nothing of the kind.
    """
    from perdure.checkpoint.core.ledger import latest_run

    if reference.startswith("wandb://"):
        return _from_wandb(reference, root, limits)
    folder = latest_run(root) if reference == "latest" else Path(reference).expanduser()
    if folder.is_dir():
        folder = folder.parent if folder.name == "checkpoints" else folder
        source = good(folder.resolve(), limits)
        if source is None:
            raise UserError(f"checkpoint.load={reference}: that folder has no full checkpoint")
        return source
    return _from_file(reference, limits)


def _from_file(reference: str, limits: Limits) -> Source | Path:
    from perdure.checkpoint.core import format as files
    from perdure.checkpoint.core.ledger import newest
    from perdure.checkpoint.interop.foreign import open_file

    path = local(reference, limits)
    if sidecars.path_of(path).is_file():
        state = files.read(path, limits.n_bytes)
        if "position" in state:
            last = newest(path.parent)
            in_its_run = path.parent.name == "checkpoints" and last is not None
            return Source(path, state, not (in_its_run and last is not None and last.path == path))
        return path
    opened = open_file(path, limits.n_bytes)
    if opened.kind == "perdure":
        return Source(path, opened.content, fork=True)
    return path


def _from_wandb(reference: str, root: Path, limits: Limits) -> Source | Path:
    """A run that lives at W&B goes on in its own folder, which is rebuilt where it is not here."""
    from perdure.checkpoint.core.ledger import folder_of, newest
    from perdure.wandb import artifacts

    path = local(reference, limits)
    fetched = artifacts.fetch(reference.partition("#")[0], _cache())
    source = _from_file(str(path), limits)
    if isinstance(source, Path) or fetched.place is None:
        return source
    home = (root / fetched.place).absolute()
    source = replace(
        source,
        fork=not fetched.newest,
        home=home,
        artifact=fetched.artifact,
        run_id=fetched.run_id,
    )
    if source.fork or newest(folder_of(home)) is None:
        return source
    here = good(home, limits)
    _require_same_run(home, here, source, reference)
    if here is None or here.step < source.step:
        return source
    log.info("%s stands as far as %s: going on from the folder", home, reference)
    return here


def _require_same_run(home: Path, here: Source | None, source: Source, reference: str) -> None:
    from perdure.wandb import record as records

    record = records.load(home)
    # One that was never mirrored has no record; its folder may be called the same.
    moments = {one.state["args"]["timestamp"] for one in (here, source) if one is not None}
    if len(moments) > 1 or (record is not None and record.id != source.run_id):
        raise UserError(
            f"{home}: another run is there, so that of {reference} cannot go on in this folder; "
            "choose another output_root, or checkpoint.fork=true"
        )


def _cache() -> Path:
    """Where what was fetched is kept."""
    return Path(os.environ.get("PERDURE_CACHE", "~/.cache/perdure")).expanduser() / "fetched"


@lru_cache
def local(reference: str, limits: Limits = DEFAULT_LIMITS) -> Path:
    """The file that `reference` names, on this machine; asked for once a process.

    Raises:
        UserError: it cannot be had.
    """
    from perdure.checkpoint.remote.references import SCHEMES, resolve
    from perdure.io.redaction import ADDRESSES
    from perdure.wandb import artifacts

    address = ADDRESSES.restore(reference, "checkpoint.load")
    schemes = {**SCHEMES, "wandb": artifacts.SCHEME}
    return resolve(address, _cache(), limits=limits, schemes=schemes).resolve()


# --- the command line -----------------------------------------------------------------------------


def expand(words: Sequence[str]) -> tuple[list[str], Source | None]:
    """The command line that goes on from the checkpoint named in `words`, and its state.

    To continue: what the file's configuration may say (`stored_config`), the folder in which the
    file lies and the run's time, then what the user typed (the last one wins). A fork gets a folder
    of its own.
    """
    command = Arguments(tuple(words))
    reference = command.value("checkpoint.load")
    is_swept = any(t.key == "checkpoint.load" and t.is_sweep for t in command.overrides)
    if reference in (None, "") or is_swept or command.only_shows:
        return list(words), None
    reference = str(reference)
    limits = limits_of(
        command.value("checkpoint.max_minutes", DEFAULT_LIMITS.seconds / 60),
        command.value("checkpoint.max_gigabytes", DEFAULT_LIMITS.n_bytes / 1e9),
    )
    source = find(reference, Path(str(command.value("output_root", "outputs"))), limits)
    words = [*command.flags, *_pinned([t.text for t in command.overrides], reference)]
    if isinstance(source, Path):
        return words, None
    if command.is_sweep:
        raise UserError(
            f"checkpoint.load={reference} with -m: a full checkpoint continues one run; a sweep "
            "can start from a weights-only checkpoint (best.pth)"
        )
    if command.value("checkpoint.resume") is not None:
        raise UserError(
            "checkpoint.load with checkpoint.resume: the first names the state of a run, the "
            "second looks for one in the run's own folder; give one of them"
        )
    if command.value("checkpoint.fork") is True:
        source = replace(source, fork=True)
    stored, taken = source.config.overrides(command)
    source = replace(source, taken=taken)
    if source.artifact and not any(t.key == "tracking" for t in command.overrides):
        # The address that was typed says where the run is mirrored.
        entity, project, _ = source.artifact.split("/")
        stored += [
            "tracking=wandb",
            f"tracking.wandb.entity={quoted(entity)}",
            f"tracking.wandb.project={quoted(project)}",
        ]
    typed = words[len(command.flags) :]
    if source.fork:
        return [*command.flags, *stored, *typed], source
    place = [
        f"timestamp={quoted(source.config.timestamp)}",
        f"hydra.run.dir={quoted(str(source.run))}",
    ]
    if (source.run / ".hydra").is_dir():  # what the run was started with stays as it was
        n = 1 + len(list((source.run / ".hydra").glob("resume-*")))
        place.append(f"hydra.output_subdir=.hydra/resume-{n}")
    return [*command.flags, *stored, *place, *typed], source


def _pinned(words: Sequence[str], reference: str) -> list[str]:
    """The command line with `latest` and other aliases of W&B replaced by what they mean now.

    So the recorded configuration names one version, and a requeued job loads the same.
    """
    if not reference.startswith("wandb://"):
        return list(words)
    from perdure.wandb import artifacts

    address, mark, pin = reference.partition("#")
    exact = artifacts.fetch(address, _cache()).pinned + mark + pin
    key = "checkpoint.load"
    return [f"{key}={quoted(exact)}" if parse(word).key == key else word for word in words]


def command_to_resume(typed: Arguments, config: Mapping[str, Any], folder: Path) -> str:
    """The command that resumes the run in `folder`, with all that no file may say.

    Args:
        typed: the command line that ran.
        config: the configuration that ran, plain.
        folder: the run's folder.
    """
    left_out = ("checkpoint.load", "checkpoint.fork", "checkpoint.resume", "checkpoint.allow")
    kept = [
        t.text
        for t in typed.overrides
        if t.key not in left_out and t.key.startswith(NOT_STORED) and not t.is_sweep
    ]
    flags = [f"--config-dir={typed.config_dir}"] if typed.config_dir else []
    allowed = [*classes_to_allow(config, typed), *map(str, typed.value("checkpoint.allow") or [])]
    if allowed:
        kept.append(f"checkpoint.allow=[{','.join(dict.fromkeys(allowed))}]")
    return f"python train.py {shlex.join([*flags, f'checkpoint.load={folder}', *kept])}"


# --- comparing configurations ---------------------------------------------------------------------

_ABSENT: Any = object()


def differences(
    now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ: (key, value now, value before)."""
    for key in [*before, *(k for k in now if k not in before)]:
        a, b = now.get(key, _ABSENT), before.get(key, _ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b and listed(a) != listed(b):
            yield f"{prefix}{key}", a, b


def require_same(now: Mapping[str, Any], before: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        UserError: lists every difference that matters.
    """
    found = [
        f"{key}={_shown(a)} (was {_shown(b)})"
        for key, a, b in differences(now, before)
        if not is_free(key)
    ]
    if found:
        raise UserError(
            f"{path}: the run was made with another configuration: {', '.join(found)}; leave "
            "these as they were, or start a run of its own with checkpoint.fork=true"
        )


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)


# --- clusters -------------------------------------------------------------------------------------


def job_record(root: Path, overrides: Sequence[str]) -> Path | None:
    """Where the folder of this command's run is written down for this cluster job, if it is one.

    A job keeps its number when it is requeued; the overrides tell apart several runs of one job.
    """
    slurm, torchrun = os.environ.get("SLURM_JOB_ID"), os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if slurm:
        name = f"slurm-{slurm}"
    elif torchrun != "none":
        name = f"torchrun-{torchrun}"
    else:
        return None
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:12]
    return root / ".jobs" / f"{name}-{digest}"
