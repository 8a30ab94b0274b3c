"""Which checkpoints a run writes, under which names, and which of them stay."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import ledger
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.writer import Writer
from perdure.errors import UserError
from perdure.training.state import Occasion, Position, Written

_KEEP_ROLLING = 2
_AT_ONCE = 50 * 2**20
"""States below so many bytes are written at once, a few milliseconds; larger ones behind."""


def stem(
    name: str, model: str, dataset: str, buffer_size: int, n_epochs: int, timestamp: str
) -> str:
    """What the names of a run's per-task files start with (Mammoth's convention)."""
    return f"{name}{model}_{dataset}_{buffer_size}_{n_epochs}_{timestamp}"


@dataclass(frozen=True)
class Policy:
    """What is kept.

    Attributes:
        save: a full file a task, and the top-K set; without it rolling files alone.
        top_k: how many epochs of a task stay, by the monitored value; 0 keeps no such set.
        monitor: name of the value, as `perdure.training.evaluation.measured` gives it.
        maximise: whether more of it is better.
        keep: how many per-task files stay; none keeps all.
        light: whether an epoch's weights are also written alone.
    """

    save: bool = False
    top_k: int = 1
    monitor: str = "average_accuracy.class_il"
    maximise: bool = True
    keep: int | None = None
    light: bool = True

    def rank(self, value: float | None) -> float:
        """Higher is better; what is no number comes last."""
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.maximise else -value


@dataclass
class CheckpointManager:
    """Keeps a run's checkpoints in `folder`, by `policy`.

    With `policy.save`: `<stem>_<task>.pt` after each task (`joint` when training jointly), and for
    each evaluated epoch `<stage>.<epoch>_full.pth` with its light twin, of which the top K of the
    stage and the last stay; `best*.pth` and `last*.pth` are links to them. Between, and for runs
    without `save`, `step-<global step>_full.pth`: the newest two, none after a good end.

    Attributes:
        folder: made when the first file is written.
        stem: start of the per-task files' names.
        cadence: when to save within a task.
        extra: what every full file holds besides the trainer's state: versions, overrides, …
        writes: false on the ranks that only keep step with rank 0, which writes for all.
    """

    folder: Path
    stem: str
    policy: Policy
    cadence: Cadence
    extra: Mapping[str, Any] = field(default_factory=dict)
    writes: bool = True

    def __post_init__(self) -> None:
        self._writer = Writer()
        self._written: list[Written] = []
        self._staged: dict[str, Any] | None = None
        self._ledger = ledger.entries(self.folder)
        self._settled = False

    def step_due(self, position: Position) -> bool:
        """Whether to save at this position; raises what went wrong in the background."""
        self._writer.check()
        return self.cadence.step_due(position)

    def time_due(self) -> bool:
        """Whether to save at the next step boundary because of the time that has passed."""
        return self.writes and self.cadence.time_due()

    def wants_epochs(self) -> bool:
        """Whether every evaluated epoch is worth a file."""
        return self.policy.save and self.policy.top_k > 0

    def save(self, state: dict[str, Any], occasion: Occasion) -> None:
        """Keep `state`: at once when it is small, else staged now and written in the background.

        Raises:
            UserError: the folder cannot be written to.
        """
        if not self.writes:
            return
        started = time.perf_counter()
        self._writer.wait()
        content = plain({**state, **self.extra, "format": files.FORMAT}, kept=self._staged)
        # The position goes on while the file is written.
        at = Position(**occasion.position.as_dict())
        plan = self._plan(occasion, at)

        def job() -> None:
            with _worded(self.folder):
                if not self._settled:  # the process before this one may have been killed
                    files.make_folder(self.folder)
                    self._settle()
                self._write(content, plan)
            task = at.task if occasion.ended is None else occasion.ended
            seconds = time.perf_counter() - started
            self._written.append(Written(plan[0][0], task, at.global_step, seconds))

        if _n_bytes(content) < _AT_ONCE:
            job()
        else:
            self._staged = content
            self._writer.start(job)
        self.cadence.saved()

    def written(self) -> list[Written]:
        """What has become durable since the last call."""
        done, self._written = self._written, []
        return done

    def wait(self) -> None:
        """Until nothing is being written any more."""
        self._writer.wait()

    def finish(self) -> None:
        """The run ended well and its results are durable: the rolling files go."""
        if not self.writes:
            return
        self._writer.wait()
        if not self._settled:
            self._settle()
        self._retain("step", 0)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    # --- names --------------------------------------------------------------------------------

    def _plan(self, occasion: Occasion, at: Position) -> list[tuple[Path, dict[str, Any]]]:
        """The files to write: path and sidecar of each; the first is full and holds the bytes."""
        value = occasion.measured.get(self.policy.monitor)
        about = {
            "position": at.as_dict(),
            "stage": occasion.stage,
            "epoch": occasion.epoch,
            "monitor": self.policy.monitor if value is not None else None,
            "value": None if value is None or math.isnan(value) else value,
            "selected_on": occasion.split,
        }
        plan = []
        if occasion.ended is not None and self.policy.save:
            task = "joint" if occasion.stage == "joint" else occasion.ended
            plan.append((self.folder / f"{self.stem}_{task}.pt", {**about, "kind": "task"}))
        if occasion.measured and self.wants_epochs():
            name = f"{occasion.stage}.{occasion.epoch}"
            plan.append((self.folder / f"{name}_full.pth", {**about, "kind": "epoch"}))
            if self.policy.light:
                plan.append((self.folder / f"{name}.pth", {**about, "kind": "light"}))
        if not plan:
            name = f"step-{at.global_step}_full.pth"
            plan.append((self.folder / name, {**about, "kind": "step"}))
        return plan

    # --- writing ------------------------------------------------------------------------------

    def _write(self, content: dict[str, Any], plan: list[tuple[Path, dict[str, Any]]]) -> None:
        (first, about), *others = plan
        twins = [[path.name, facts] for path, facts in others]
        files.commit(first, content, {**about, "twins": twins})
        self._settle(content)

    def _settle(self, content: Mapping[str, Any] | None = None) -> None:
        """All that follows from what is committed, so that it can be made up for after a kill."""
        self._ledger = ledger.entries(self.folder)
        if full := [e for e in self._ledger if e.full]:
            for entry in [e for e in full if e.order == full[-1].order]:
                self._add_twins(entry.path, content)
            self._ledger = ledger.entries(self.folder)
        if stages := list(dict.fromkeys(e.stage for e in self._ledger if e.kind == "epoch")):
            self._point(stages[-1])
            for stage in stages:
                self._retain_epochs(stage)
        self._retain("step", _KEEP_ROLLING)
        if self.policy.keep is not None:
            self._retain("task", self.policy.keep)
        self._settled = True

    def _add_twins(self, path: Path, content: Mapping[str, Any] | None) -> None:
        """The other files that were to be written with `path`, where they are missing.

        Their names are an epoch's, as `sidecars` made sure: never one that leads elsewhere.
        """
        for name, facts in files.committed(path).get("twins", []):
            twin = self.folder / name
            if files.sidecar(twin).exists():
                continue
            if facts["kind"] == "light":
                content = content or files.read(path)
                files.commit(twin, {"model_state_dict": _backbone_of(content["model"])}, facts)
            else:
                files.link(path, twin, facts)

    def _ranked(self, stage: str) -> tuple[list[ledger.Entry], ledger.Entry]:
        """The stage's epochs, best first, and its last."""
        mine = [e for e in self._ledger if e.kind == "epoch" and e.stage == stage]
        return sorted(mine, key=lambda e: (-self.policy.rank(e.value), e.order)), mine[-1]

    def _point(self, stage: str) -> None:
        """Let `best` and `last` be the stage's."""
        ranked, last = self._ranked(stage)
        for name, entry in (("best", ranked[0]), ("last", last)):
            files.point(self.folder / f"{name}_full.pth", entry.path)
            if self.policy.light:
                light = entry.path.name.replace("_full.pth", ".pth")
                files.point(self.folder / f"{name}.pth", entry.path.with_name(light))

    def _retain_epochs(self, stage: str) -> None:
        """Keep the stage's top K and its last epoch."""
        ranked, last = self._ranked(stage)
        kept = {e.epoch for e in ranked[: self.policy.top_k]} | {last.epoch}
        self._remove(
            e
            for e in self._ledger
            if e.stage == stage and e.kind in ("epoch", "light") and e.epoch not in kept
        )

    def _retain(self, kind: str, n: int) -> None:
        """Keep the newest `n` of `kind`."""
        mine = [e for e in self._ledger if e.kind == kind]
        self._remove(mine[: max(0, len(mine) - n)])

    def _remove(self, gone: Iterable[ledger.Entry]) -> None:
        for entry in list(gone):
            files.remove(entry.path)
            self._ledger.remove(entry)


@contextmanager
def _worded(folder: Path) -> Iterator[None]:
    """Turns the disk's errors into a sentence."""
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"cannot write a checkpoint in {folder}: {what}") from error


def _n_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_n_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_n_bytes, value))
    return value.numel() * value.element_size() if hasattr(value, "element_size") else 0


def _backbone_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The network's own weights, without the method around it."""
    prefix = "backbone."
    return {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
