"""List the checkpoints of a run folder, the newest, the latest run: sidecars are the only index."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.errors import UserError, printable
from perdure.io.run_files import CHECKPOINTS, RunFiles

log = logging.getLogger("perdure")


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
        """Task, epoch, step and global step, in the order of `Position`."""
        global_step, task, epoch, step = self.order
        return [task, epoch, step, global_step]

    @property
    def full(self) -> bool:
        """Whether a run can resume from it."""
        return self.kind != sidecars.WEIGHTS_ONLY


def entries(folder: Path) -> list[Entry]:
    """The committed checkpoints in `folder`, oldest first; warns of invalid sidecars."""
    found = []
    for path in sidecars.checkpoints_in(folder) if folder.is_dir() else ():
        sidecar = sidecars.path_of(path)
        if sidecar.is_symlink() or not path.is_file():
            continue
        try:
            found.append(_entry(path, sidecars.read(path)))
        except (ValueError, KeyError, OSError):
            names = printable(str(sidecar)), printable(path.name)
            log.warning("%s is not a sidecar that can be read; %s is passed over", *names)
    return sorted(found, key=lambda e: e.order)


def _entry(path: Path, metadata: dict[str, Any]) -> Entry:
    at = metadata["position"]
    order = (at["global_step"], at["task"], at["epoch"], at["step"])
    value = metadata.get("value")
    value = None if value is None else float(value)
    return Entry(path, metadata["kind"], order, metadata["stage"], metadata["epoch"], value)


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
