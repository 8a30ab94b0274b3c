"""List the checkpoints of a run folder, the newest, the latest run: sidecars are the only index."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.errors import UserError, printable
from perdure.io.run_files import CHECKPOINTS, RunFiles

log = logging.getLogger("perdure")

_OURS = re.compile(r"step-\d+_full\.pth|(task\d+|joint)\.\d+(_full)?\.pth|.+_(\d+|joint)\.pt")
"""Names that a run gives its own files."""


IN_ORDER = ("task", "epoch", "step", "global_step")
"""What of a `Position` tells checkpoints apart."""


@dataclass(frozen=True)
class Entry:
    """A committed checkpoint, by the metadata in its sidecar.

    Attributes:
        path: the file.
        kind: `task` (kept after a task), `epoch` (of the top-K set), `step` (rolling),
            `weights-only`.
        order: (global step, task, epoch, step): a later state has a higher one.
        stage: `task0`, …, `joint`.
        epoch: epochs of the stage done.
        value: the monitored value, None where it was not measured.
    """

    path: Path
    kind: str
    order: tuple[int, int, int, int]
    stage: str
    epoch: int
    value: float | None

    @property
    def at(self) -> list[int]:
        """The numbers of `IN_ORDER`."""
        global_step, task, epoch, step = self.order
        return [task, epoch, step, global_step]

    @property
    def full(self) -> bool:
        """Whether a run can resume from it."""
        return self.kind != sidecars.WEIGHTS_ONLY


def entries(folder: Path) -> list[Entry]:
    """The committed checkpoints in `folder`, oldest first; warns of those that are broken."""
    found = []
    for path, entry, reason in _scan(folder):
        if entry is not None:
            found.append(entry)
        elif is_own_name(path.name):
            log.warning("%s is passed over: %s", printable(str(path)), reason)
    return sorted(found, key=lambda e: e.order)


def broken(folder: Path) -> list[tuple[Path, str]]:
    """Checkpoints that a sidecar in `folder` names and does not prove, each with the reason."""
    return [
        (path, reason) for path, _, reason in _scan(folder) if reason and is_own_name(path.name)
    ]


def uncommitted(folder: Path) -> list[Path]:
    """Files in `folder` with a name of ours and no sidecar: a kill came between the two."""
    files = folder.iterdir() if folder.is_dir() else ()
    return [
        path
        for path in files
        if is_own_name(path.name)
        and not path.is_symlink()
        and path.is_file()
        and not os.path.lexists(sidecars.path_of(path))
    ]


def is_own_name(name: str) -> bool:
    """Whether a run gives its checkpoints such names; other files are left alone."""
    return _OURS.fullmatch(name) is not None


def is_full_name(name: str) -> bool:
    """Whether a file of this name would be one from which a run can resume."""
    return is_own_name(name) and name.endswith(("_full.pth", ".pt"))


def entry_of(path: Path, metadata: Mapping[str, Any]) -> Entry:
    """The checkpoint `path` by the metadata in its sidecar. Raises KeyError: some are missing."""
    at = metadata["position"]
    order = (at["global_step"], at["task"], at["epoch"], at["step"])
    value = metadata.get("value")
    value = None if value is None else float(value)
    return Entry(path, metadata["kind"], order, metadata["stage"], metadata["epoch"], value)


def _scan(folder: Path) -> Iterator[tuple[Path, Entry | None, str]]:
    """What each sidecar in `folder` names, and what is wrong with it; no entry: it never counts."""
    for path in sidecars.checkpoints_in(folder) if folder.is_dir() else ():
        name = printable(sidecars.path_of(path).name)
        try:
            metadata = sidecars.read(path)
            entry = entry_of(path, metadata)
        except (ValueError, KeyError, OSError):
            yield path, None, f"{name} is not a sidecar that can be read"
            continue
        if not path.is_file():
            yield path, None, f"{name} is there, the file is not"
        else:
            fits = path.stat().st_size == metadata["bytes"]
            yield path, entry, "" if fits else f"{name} is of a file of another size"


def newest(folder: Path) -> Entry | None:
    """The furthest full checkpoint that is committed in `folder`, unverified."""
    full = [entry for entry in entries(folder) if entry.full]
    return full[-1] if full else None


def latest_run(root: Path) -> Path:
    """The run folder below `root` whose newest full checkpoint was written last.

    Raises:
        UserError: no run there has one.
    """
    found = [
        (entry.path.stat().st_mtime_ns, run)
        for pattern in (f"*/{CHECKPOINTS}", f"*/*/{CHECKPOINTS}")
        for run in (path.parent for path in root.glob(pattern))
        if (entry := newest(RunFiles(run).checkpoints)) is not None
    ]
    if not found:
        raise UserError(f"checkpoint.load=latest: no run under {root} has a full checkpoint")
    return max(found)[1]
