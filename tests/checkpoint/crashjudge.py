"""Records a run's disk operations and acknowledged commits, and judges what a crash left of it."""

from __future__ import annotations

import os
import random
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from checkpoint.crashsim import Disk, Operation, Recorder, Tree

from perdure.checkpoint.core import format as files
from perdure.errors import UserError
from perdure.io import atomic

SEED = 20261122
KEEP = 2
"""How many states a run can always go back to, once it wrote as many."""

SYNCS = (
    "the-file",
    "its-name",
    "its-sidecar",
    "name-of-its-sidecar",
    "name-of-a-link",
    "sidecar-of-a-link",
    "name-of-the-sidecar-of-a-link",
    "name-of-the-folder",
)
"""Every fsync of the protocol: four of `commit`, three of `link`, one of `make_folder`."""


@dataclass
class Recording:
    """What a run did to the disk, and which commits were acknowledged.

    Attributes:
        began: by file, the operation at which its commit began, and the state it is to hold.
        acknowledged: by file, the number of operations when its commit was acknowledged.
        released: by file, the operation at which its removal began.
        acknowledge: gets the name of each acknowledged file.
    """

    recorder: Recorder
    acknowledge: Callable[[str], object] = lambda name: None
    began: dict[str, tuple[int, Any]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    released: dict[str, int] = field(default_factory=dict)
    next_sync: int = SYNCS.index("name-of-the-folder")

    @property
    def log(self) -> list[Operation]:
        return self.recorder.log

    def drops(self, missing: str) -> Callable[[bool], bool]:
        """Tells the one fsync of `SYNCS` that the protocol under test leaves out."""

        def dropped(folder: bool) -> bool:
            self.next_sync += 1
            return SYNCS[self.next_sync - 1] == missing

        return dropped

    @contextmanager
    def on(self) -> Iterator[None]:
        """Record all that happens."""
        real_commit, real_link, real_remove = files.commit, files.link, files.remove

        def commit(path: Path, content: Any, about: Any) -> None:
            self._during(path, content, SYNCS.index("the-file"), real_commit, content, about)

        def link(source: Path, path: Path, about: Any) -> None:
            content, first = self.began[source.name][1], SYNCS.index("name-of-a-link")
            self._during(
                path, content, first, lambda to, about: real_link(source, to, about), about
            )

        def remove(path: Path) -> None:
            self.released[path.name] = len(self.log)
            real_remove(path)

        changed = patch.multiple(files, commit=commit, link=link, remove=remove)
        with changed, self.recorder.installed():
            yield

    def _during(self, path: Path, content: Any, first: int, act: Any, *arguments: Any) -> None:
        self.began[path.name] = len(self.log), content
        self.next_sync = first
        act(path, *arguments)
        self.acknowledged[path.name] = len(self.log)
        self.acknowledge(path.name)


def numbered() -> Any:
    """Temporary names 0000, 0001, …, so that the same run does the same operations again."""
    numbers = (f"{n:04}" for n in range(10_000))
    return patch.object(secrets, "token_hex", lambda n: next(numbers))


def record(run: Path, what: Callable[[Path], None], missing: str = "nothing") -> Recording:
    """Do `what` in the new folder `run`."""
    run.mkdir()
    recording = Recording(Recorder(run))
    recording.recorder.drops = recording.drops(missing)
    with recording.on():
        what(run)
    assert Disk(recording.log).tree() == tree_of(run), "an operation went past the recorder"
    return recording


def tree_of(root: Path) -> dict[str, bytes | str | None]:
    """What is really below `root`."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in root.rglob("*")
    }


# --- judging --------------------------------------------------------------------------------------


class Judge:
    """Says what is wrong with what a crash left of a recorded run."""

    def __init__(self, recording: Recording, scratch: Path) -> None:
        self.recording = recording
        self.scratch = scratch
        scratch.mkdir()
        self._verdicts: dict[Any, str] = {}
        self._recoveries: dict[Any, bool] = {}

    def faults(self, done: int, tree: Tree) -> list[str]:
        """What is wrong when `tree` is left after `done` operations of the run."""
        r = self.recording
        begun = {name: content for name, (at, content) in r.began.items() if at < done}
        acknowledged = {name for name, at in r.acknowledged.items() if at <= done}
        held = {name for name in acknowledged if r.released.get(name, done) >= done}
        verdicts = {name: self._verdict(name, tree) for name in begun}
        found = [v for v in verdicts.values() if v not in ("good", "absent")]
        found += ["lost" for name in held if verdicts[name] != "good"]
        steps = {begun[name].get("n", 0) for name, v in verdicts.items() if v == "good"} - {0}
        promised = {begun[name].get("n", 0) for name in acknowledged} - {0}
        if len(steps) < min(KEEP, len(promised)):
            found.append("too few")
        if max(steps, default=0) < max(promised, default=0):
            found.append("behind")
        again = frozenset(n for n, v in verdicts.items() if v == "absent" and n not in acknowledged)
        if not self._recovers(tree, again):
            found.append("stuck")
        return found

    def _verdict(self, name: str, tree: Tree) -> str:
        path = f"checkpoints/{name}"
        key = name, tree.get(path), tree.get(f"{path}.json")
        if key not in self._verdicts:
            lay({path: key[1], f"{path}.json": key[2]}, self.scratch / "read")
            self._verdicts[key] = verdict(
                self.scratch / "read" / path, self.recording.began[name][1]
            )
        return self._verdicts[key]

    def _recovers(self, tree: Tree, again: frozenset[str]) -> bool:
        """Whether a resumed run can write the files `again`, and leaves nothing behind."""
        matter = tuple(f"checkpoints/{name}{end}" for name in again for end in ("", ".json"))
        left = {
            name: content
            for name, content in tree.items()
            if name in matter or ".tmp-" in name or content is None
        }
        key = again, frozenset(left)
        if key not in self._recoveries:
            lay(left, self.scratch / "recover")
            self._recoveries[key] = self._commits(self.scratch / "recover" / "checkpoints", again)
        return self._recoveries[key]

    def _commits(self, folder: Path, again: frozenset[str]) -> bool:
        try:
            with patch.object(os, "fsync"):  # nothing is lost here, and it takes most of the time
                atomic.make_folder(folder)
                atomic.remove_temporaries(folder)
                for name in again:
                    files.commit(folder / name, self.recording.began[name][1], {})
        except OSError:
            return False
        good = all(
            verdict(folder / name, self.recording.began[name][1]) == "good" for name in again
        )
        return good and not [p for p in folder.iterdir() if p.name.startswith(".tmp-")]


def lay(tree: Tree, folder: Path) -> None:
    """Put `tree` into `folder`, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.symlink_to(content)


def verdict(path: Path, expected: Any) -> str:
    """`good`; `absent`, which reading says; `wrong`, read as good; or `error`, another one."""
    try:
        found = files.read(path)
    except UserError:
        return "absent"
    except Exception:
        return "error"
    return "good" if same(found, expected) else "wrong"


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(type(a) is type(b) and a == b)


def power_losses(recording: Recording, scratch: Path, limit: int) -> tuple[int, Counter[str]]:
    """Every crash of the recorded run: how many states, and what is wrong with them."""
    judge, draw = Judge(recording, scratch), random.Random(SEED)
    states, found = 0, Counter[str]()
    for done in range(len(recording.log) + 1):
        for tree in Disk(recording.log[:done]).crashes(draw, limit):
            states += 1
            found.update(judge.faults(done, tree))
    return states, found
