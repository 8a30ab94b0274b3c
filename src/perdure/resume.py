"""Going on from a checkpoint: which one, in which folder, with which configuration.

Nothing here imports torch until a file is really opened.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from perdure.errors import UserError

log = logging.getLogger("perdure")

FREE = (
    "checkpoint",
    "tracking",
    "data.root",
    "data.max_minutes",
    "output_root",
    "timestamp",
    "device",
    "threads",
    "training.log_every",
    "training.collective_timeout",
    "training.evaluate_every",
    "training.eval_batch_size",
    "dataset.stop_after",
    "recipe",
)
"""Keys (and what is below them) that may differ between a checkpoint and the run that goes on."""

_IMPLIED = {
    "training.shards": 1,
    "training.exact": True,
    "training.replay_sync": "replicated",
    "training.sync_batchnorm": False,
    "training.parallel": "replicate",
}
"""What a checkpoint means that was written before these keys existed."""

_MINE = ("checkpoint.load", "checkpoint.fork", "checkpoint.resume", "timestamp=")
_MIRROR = tuple(f"{sign}tracking.wandb." for sign in ("", "+", "++", "~"))
"""Overrides of what a run that is not mirrored does not have."""


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
    """

    path: Path
    state: dict[str, Any]
    fork: bool = False
    home: Path | None = None
    artifact: str | None = None
    run_id: str | None = None

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


def good(folder: Path) -> Source | None:
    """The newest full checkpoint of the run in `folder` that is intact; none if none was written.

    A damaged one is set aside under another name, with a warning, and the one before it is taken.

    Raises:
        UserError: there are some, but none is intact or readable.
    """
    from perdure.checkpoint import format as files
    from perdure.checkpoint.ledger import entries, folder_of

    full = [entry for entry in entries(folder_of(folder)) if entry.full]
    reasons = []
    for entry in reversed(full):
        try:
            state = files.read(entry.path)
            if list(state.get("position", {}).values()) not in ([], entry.at):
                raise UserError(f"{entry.path}: damaged (its sidecar names another position)")
        except files.NewerFormatError:
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


def find(reference: str, root: Path) -> Source | Path:
    """What `checkpoint.load=reference` names: a state to go on from, or a file of weights.

    Args:
        reference: a file, a run folder, `latest`, or a remote reference.
        root: where runs are, for `latest`.

    Raises:
        UserError: there is nothing of the kind.
    """
    from perdure.checkpoint.ledger import latest_run

    if reference.startswith("wandb://"):
        return _from_wandb(reference, root)
    folder = latest_run(root) if reference == "latest" else Path(reference).expanduser()
    if folder.is_dir():
        folder = folder.parent if folder.name == "checkpoints" else folder
        source = good(folder.resolve())
        if source is None:
            raise UserError(f"checkpoint.load={reference}: that folder has no full checkpoint")
        return source
    return _from_file(reference)


def _from_file(reference: str) -> Source | Path:
    from perdure.checkpoint import format as files
    from perdure.checkpoint.foreign import open_file
    from perdure.checkpoint.ledger import newest

    path = local(reference)
    if files.sidecar(path).is_file():
        state = files.read(path)
        if "position" in state:
            last = newest(path.parent)
            in_its_run = path.parent.name == "checkpoints" and last is not None
            return Source(path, state, not (in_its_run and last is not None and last.path == path))
        return path
    opened = open_file(path)
    if opened.kind == "perdure":
        return Source(path, opened.content, fork=True)
    return path


def _from_wandb(reference: str, root: Path) -> Source | Path:
    """A run that lives at W&B goes on in its own folder, which is rebuilt where it is not here."""
    from perdure.checkpoint import artifacts
    from perdure.checkpoint.ledger import folder_of, newest

    path = local(reference)
    fetched = artifacts.fetch(reference.partition("#")[0], _cache())
    source = _from_file(str(path))
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
    here = good(home)
    _require_same_run(home, here, source, reference)
    if here is None or here.step < source.step:
        return source
    log.info("%s stands as far as %s: going on from the folder", home, reference)
    return here


def _require_same_run(home: Path, here: Source | None, source: Source, reference: str) -> None:
    from perdure.tracking.wandb import record as records

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
def local(reference: str) -> Path:
    """The file that `reference` names, on this machine; asked for once a process.

    Raises:
        UserError: it cannot be had.
    """
    from perdure.checkpoint.references import resolve

    return resolve(reference, _cache()).resolve()


# --- the command line -----------------------------------------------------------------------------


def expand(arguments: Sequence[str]) -> tuple[list[str], Source | None]:
    """The command line that goes on from the checkpoint named in `arguments`, and its state.

    To continue: the overrides that the run was started with, its folder and time, and then what
    the user typed now (the last one wins). A fork gets a folder of its own.
    """
    given = dict(a.split("=", 1) for a in arguments if "=" in a and not a.startswith("-"))
    reference = given.get("checkpoint.load", "null").strip("'\"")
    sweep = any(a in ("-m", "--multirun") for a in arguments)
    looking = any(a in ("--help", "-h", "--cfg", "-c", "--info", "-i") for a in arguments)
    if reference in ("null", "") or looking:
        return list(arguments), None
    source = find(reference, Path(given.get("output_root", "outputs")))
    arguments = _pinned(arguments, reference)
    if isinstance(source, Path):
        return list(arguments), None
    if sweep:
        raise UserError(
            f"checkpoint.load={reference} with -m: a full checkpoint continues one run; a sweep "
            "can start from a light file (best.pth)"
        )
    if given.get("checkpoint.resume", "null") not in ("null", ""):
        raise UserError(
            "checkpoint.load with checkpoint.resume: the first names the state of a run, the "
            "second looks for one in the run's own folder; give one of them"
        )
    if given.get("checkpoint.fork", "false").lower() == "true":
        source = replace(source, fork=True)
    mine = (*_MINE, *_MIRROR) if "tracking=local" in arguments else _MINE
    saved = [o for o in source.state["overrides"] if not o.startswith(mine)]
    config = [*saved, *_pins(saved, source.state["args"])]
    if source.fork:
        return [*config, *arguments], source
    place = [
        f"timestamp={quoted(source.state['args']['timestamp'])}",
        f"hydra.run.dir={quoted(str(source.run))}",
    ]
    if (source.run / ".hydra").is_dir():  # what the run was started with stays as it was
        n = 1 + len(list((source.run / ".hydra").glob("resume-*")))
        place.append(f"hydra.output_subdir=.hydra/resume-{n}")
    return [*config, *place, *arguments], source


def _pinned(arguments: Sequence[str], reference: str) -> list[str]:
    """The command line with `latest` and other aliases of W&B replaced by what they mean now.

    So the recorded configuration names one version, and a requeued job loads the same.
    """
    if not reference.startswith("wandb://"):
        return list(arguments)
    from perdure.checkpoint import artifacts

    address, mark, pin = reference.partition("#")
    exact = artifacts.fetch(address, _cache()).pinned + mark + pin
    key = "checkpoint.load="
    return [f"{key}{quoted(exact)}" if a.startswith(key) else a for a in arguments]


def _pins(saved: list[str], args: Mapping[str, Any]) -> Iterator[str]:
    """Overrides for what the repository's files say otherwise today than when the run started."""
    from omegaconf import OmegaConf

    from perdure.composition import compose

    today: Any = OmegaConf.to_container(
        compose(*saved, "timestamp=now"), resolve=True, enum_to_str=True
    )
    for key, _, before in differences(today, args):
        if before is not _ABSENT and not _is_free(key):
            yield f"++{key}={quoted(before)}"


def quoted(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return repr(value)


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
        elif a != b and _listed(a) != _listed(b):
            yield f"{prefix}{key}", a, b


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def require_same(now: Mapping[str, Any], before: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        UserError: lists every difference that matters.
    """
    found = [
        f"{key}={_shown(a)} (was {_shown(b)})"
        for key, a, b in differences(now, before)
        if not _is_free(key) and not (b is _ABSENT and _IMPLIED.get(key, _ABSENT) == a)
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
