"""The checkpoint manager: which checkpoints a run writes, under which names, and which it keeps.

A state is staged on the host and written in a background thread; the best K epochs (top-K), the
last one and the newest rolling files stay (retention).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import ledger, sidecars
from perdure.checkpoint.core.aliases import backbone_of, with_aliases
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.sidecars import WEIGHTS_ONLY
from perdure.errors import UserError
from perdure.io import atomic
from perdure.training.state import Position, SaveContext, SavedCheckpoint

log = logging.getLogger("perdure")

_KEEP_ROLLING = 2
_AT_ONCE = 50 * 2**20
"""States below so many bytes are written at once, in a few milliseconds; larger ones behind."""


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
        maximize: whether more of it is better.
        keep: how many per-task files stay; None keeps all.
        weights_only: whether an epoch's weights are also written alone.
    """

    save: bool = False
    top_k: int = 1
    monitor: str = "average_accuracy.class_il"
    maximize: bool = True
    keep: int | None = None
    weights_only: bool = True

    def rank(self, value: float | None) -> float:
        """Higher is better; NaN and None come last."""
        if value is None or math.isnan(value):
            return -math.inf
        return value if self.maximize else -value


@dataclass
class CheckpointManager:
    """Writes a run's checkpoints to `folder`, and removes those that `policy` does not keep.

    With `policy.save`: `<stem>_<task>.pt` after each task (`joint` when training jointly), and for
    each evaluated epoch `<stage>.<epoch>_full.pth` with the weights alone as its sibling
    `<stage>.<epoch>.pth`, of which the top K of the stage and the last stay; `best*.pth` and
    `last*.pth` are links to them. Between, and for runs without `save`,
    `step-<global step>_full.pth`: the newest two, none after a good end. Every full file has
    Catalyst's names for its parts too (`aliases`).

    `best*.pth` is the best epoch of the newest task that has one: an average over two tasks and
    one over three do not compare, and the best of the first task would be the best of all.

    Attributes:
        folder: made when the first file is written.
        stem: start of the per-task files' names.
        policy: what is kept.
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
        self._writer = _BackgroundWriter()
        self._saved: list[SavedCheckpoint] = []
        self._staged: dict[str, Any] | None = None
        self._ledger: list[ledger.Entry] = []
        self._reconciled = False

    def step_due(self, position: Position) -> bool:
        """Whether to save at this position; raises an error of the background writer."""
        self._writer.check()
        return self.cadence.step_due(position)

    def time_due(self) -> bool:
        """Whether to save at the next step boundary because of the time that has passed."""
        return self.writes and self.cadence.time_due()

    def wants_epochs(self) -> bool:
        """Whether every evaluated epoch is worth a file."""
        return self.policy.save and self.policy.top_k > 0

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        """Write `state`: at once when it is small, else staged now and written in the background.

        Args:
            state: `TrainState.state_dict()`; its tensors may change as soon as this returns.
            context: where training stands, and what was measured there.

        Raises:
            UserError: the folder cannot be written to.
        """
        if not self.writes:
            return
        started = time.perf_counter()
        self._writer.wait()
        # The tensors of the last save are filled again: fresh memory would take several times
        # longer, and training stands still meanwhile.
        content = plain({**state, **self.extra, "format": files.FORMAT}, reuse=self._staged)
        # A copy: training moves the position on while the file is written.
        at = Position(**context.position.as_dict())
        plan = self._plan(context, at)

        def job() -> None:
            with _user_errors(self.folder):
                if not self._reconciled:  # the process before this one may have been killed
                    atomic.make_folder(self.folder)
                    self._open()
                if self._follows_no_step(*plan[0], at):
                    return
                self._write(content, plan)
            task = at.task if context.ended is None else context.ended
            seconds = time.perf_counter() - started
            self._saved.append(SavedCheckpoint(plan[0][0], task, at.global_step, seconds))

        if _n_bytes(content) < _AT_ONCE:
            job()
        else:
            self._staged = content
            self._writer.start(job)
        self.cadence.saved()

    def take_saved(self) -> list[SavedCheckpoint]:
        """The checkpoints that have become durable since the last call."""
        saved, self._saved = self._saved, []
        return saved

    def wait(self) -> None:
        """Until nothing is being written any more; raises an error of the background writer."""
        self._writer.wait()

    def finish(self) -> None:
        """The run ended well and its results are durable: the rolling files go."""
        if not self.writes:
            return
        self._writer.wait()
        if not self._reconciled:
            self._open()
        self._retain("step", 0)
        self._remove_uncommitted()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    # --- names --------------------------------------------------------------------------------

    def _plan(self, context: SaveContext, at: Position) -> list[tuple[Path, dict[str, Any]]]:
        """The files to write: path and metadata of each; the first is full and holds the bytes."""
        value = context.measured.get(self.policy.monitor)
        metadata = {
            "position": at.as_dict(),
            "stage": context.stage,
            "epoch": context.epoch,
            "monitor": self.policy.monitor if value is not None else None,
            "value": None if value is None or math.isnan(value) else value,
            "selected_on": context.split,
        }
        plan = []
        if context.ended is not None and self.policy.save:
            task = "joint" if context.stage == "joint" else context.ended
            plan.append((self.folder / f"{self.stem}_{task}.pt", {**metadata, "kind": "task"}))
        if context.measured and self.wants_epochs():
            name = f"{context.stage}.{context.epoch}"
            plan.append((self.folder / f"{name}_full.pth", {**metadata, "kind": "epoch"}))
            if self.policy.weights_only:
                plan.append((self.folder / f"{name}.pth", {**metadata, "kind": WEIGHTS_ONLY}))
        if not plan:
            name = f"step-{at.global_step}_full.pth"
            plan.append((self.folder / name, {**metadata, "kind": "step"}))
        return plan

    def _follows_no_step(self, path: Path, metadata: Mapping[str, Any], at: Position) -> bool:
        """Whether a rolling file is of an earlier task, and no step was taken since.

        A task may take none: GDumb trains for an evaluation alone. Who resumes from that file goes
        through the same hooks once more, and no name is used twice.
        """
        return metadata["kind"] == "step" and any(
            entry.path == path and entry.order[1] < at.task for entry in self._ledger
        )

    # --- writing ------------------------------------------------------------------------------

    def _open(self) -> None:
        """Read what is committed, once, and make up for what a kill has left undone.

        A checkpoint that its sidecar does not prove is set aside: training may come to its name.
        """
        for path, reason in ledger.broken(self.folder):
            aside = files.set_aside(path)
            log.warning("%s: %s; set aside as %s", path, reason, aside.name)
        self._ledger = ledger.entries(self.folder)
        if self._ledger:
            self._remove_uncommitted()
        self._reconcile({e.stage for e in self._ledger})

    def _remove_uncommitted(self) -> None:
        """Remove the files of this run that no sidecar commits; only who holds the lock may."""
        for path in ledger.uncommitted(self.folder):
            if path.suffix != ".pt" or path.name.startswith(f"{self.stem}_"):
                path.unlink(missing_ok=True)

    def _write(self, content: dict[str, Any], plan: list[tuple[Path, dict[str, Any]]]) -> None:
        """Commit the first file of `plan`, which names the others: they can be made up from it."""
        (first, metadata), *others = plan
        siblings = [[path.name, fields] for path, fields in others]
        self._reconciled = False  # until all that follows is done
        files.commit(first, with_aliases(content), {**metadata, "siblings": siblings})
        self._add(first, metadata)
        self._reconcile({metadata["stage"]}, content)

    def _reconcile(self, stages: set[str], content: Mapping[str, Any] | None = None) -> None:
        """Bring siblings, links and retention in line with what is committed in `stages`.

        All of it follows from the committed sidecars, so a kill in between is made up for here.
        """
        # What somebody has removed meanwhile; only the stages at hand are looked at on the disk.
        self._ledger = [
            e for e in self._ledger if e.stage not in stages or sidecars.path_of(e.path).exists()
        ]
        newest = max((e.order for e in self._ledger if e.full), default=None)
        for entry in [e for e in self._ledger if e.full and e.order == newest]:
            self._add_siblings(entry.path, content)
        by_stage: dict[str, list[ledger.Entry]] = {}
        for entry in self._ledger:
            if entry.stage in stages and entry.kind in ("epoch", WEIGHTS_ONLY):
                by_stage.setdefault(entry.stage, []).append(entry)
        epochs = [e for e in self._ledger if e.kind == "epoch"]
        if epochs and epochs[-1].stage in by_stage:
            self._update_links(by_stage[epochs[-1].stage])
        for entries in by_stage.values():
            self._retain_epochs(entries)
        self._retain("step", _KEEP_ROLLING)
        if self.policy.keep is not None:
            self._retain("task", self.policy.keep)
        self._reconciled = True

    def _add_siblings(self, path: Path, content: Mapping[str, Any] | None) -> None:
        """Write the other files that were to be written with `path`, where they are missing.

        Their names are an epoch's, as `sidecars` made sure: never one that leads elsewhere.
        """
        for name, metadata in files.committed(path).get("siblings", []):
            sibling = self.folder / name
            if sidecars.path_of(sibling).exists():
                continue
            if metadata["kind"] == WEIGHTS_ONLY:
                content = content or files.read(path)
                weights = {"model_state_dict": backbone_of(content["model"])}
                files.commit(sibling, weights, metadata)
            else:
                files.link(path, sibling, metadata)
            self._add(sibling, metadata)

    def _add(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Enter the file `path`, which is now committed."""
        self._ledger.append(ledger.entry_of(path, metadata))
        self._ledger.sort(key=lambda e: e.order)

    def _ranked(self, stage: list[ledger.Entry]) -> tuple[list[ledger.Entry], ledger.Entry]:
        """The stage's epochs, best first, and its last."""
        epochs = [e for e in stage if e.kind == "epoch"]
        return sorted(epochs, key=lambda e: (-self.policy.rank(e.value), e.order)), epochs[-1]

    def _update_links(self, stage: list[ledger.Entry]) -> None:
        """Let `best` and `last` name those of the newest stage, `stage`."""
        ranked, last = self._ranked(stage)
        for name, entry in (("best", ranked[0]), ("last", last)):
            atomic.update_link(self.folder / f"{name}_full.pth", entry.path)
            if self.policy.weights_only:
                weights = entry.path.name.replace("_full.pth", ".pth")
                atomic.update_link(self.folder / f"{name}.pth", entry.path.with_name(weights))

    def _retain_epochs(self, stage: list[ledger.Entry]) -> None:
        """Keep the stage's top K and its last epoch."""
        if not any(e.kind == "epoch" for e in stage):
            return
        ranked, last = self._ranked(stage)
        kept = {e.epoch for e in ranked[: self.policy.top_k]} | {last.epoch}
        self._remove(e for e in stage if e.epoch not in kept)

    def _retain(self, kind: str, n: int) -> None:
        """Keep the newest `n` of `kind`."""
        entries = [e for e in self._ledger if e.kind == kind]
        self._remove(entries[: max(0, len(entries) - n)])

    def _remove(self, outdated: Iterable[ledger.Entry]) -> None:
        gone = set()
        for entry in outdated:
            files.remove(entry.path)
            gone.add(entry.path)
        if gone:
            self._ledger = [e for e in self._ledger if e.path not in gone]


class _BackgroundWriter:
    """Runs one job at a time in a thread; its error surfaces at the next step.

    A thread, since a forked process would hang after OpenMP has started its own threads.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin `job` when the one before it has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a job that failed, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until no job runs; raises the error of one that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error


@contextmanager
def _user_errors(folder: Path) -> Iterator[None]:
    """Turn the disk's errors into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write a checkpoint in {folder}: {reason}") from error


def _n_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_n_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_n_bytes, value))
    return value.numel() * value.element_size() if hasattr(value, "element_size") else 0
