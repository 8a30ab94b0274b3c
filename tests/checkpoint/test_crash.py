"""The protocol, stopped before every file operation and by power loss, loses nothing.

And the harness can tell: each protocol that leaves out one step is found to lose something.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from checkpoint.crashsim import Disk, Operation, Recorder, Tree
from process import ROOT, environment

from perdure.checkpoint import format as files
from perdure.errors import UserError

SEED = 20261122
KEEP = 2


def state(n: int) -> dict[str, Any]:
    """A state that takes several writes, and tells its number."""
    return {"n": n, "weights": torch.arange(3000) * n, "buffer": torch.full((700,), n % 256).byte()}


# --- what a run does ------------------------------------------------------------------------------


def rolling(run: Path) -> None:
    """Rolling files of which two stay, a file for the task that ends, and its second name."""
    folder = run / "checkpoints"
    files.make_folder(folder)
    files.sweep(folder)
    for n in range(1, 5):
        files.write(folder / f"step-{n}.pth", state(n), {})
        if n == 3:
            files.write(folder / "er_0.pt", state(n), {})
            files.link(folder / "er_0.pt", folder / "task0.1.pth", {})
            files.point(folder / "best.pth", folder / "task0.1.pth")
        if n > KEEP:
            files.remove(folder / f"step-{n - KEEP}.pth")


def deleting_first(run: Path) -> None:
    """As Accelerate does: room is made before the new file is there."""
    folder = run / "checkpoints"
    files.make_folder(folder)
    for n in range(1, 5):
        if n > KEEP:
            files.remove(folder / f"step-{n - KEEP}.pth")
        files.write(folder / f"step-{n}.pth", state(n), {})


def in_a_young_folder(run: Path) -> None:
    """The folder itself is never made safe."""
    (run / "checkpoints").mkdir()
    files.write(run / "checkpoints" / "step-1.pth", state(1), {})


# --- protocols with a fault -----------------------------------------------------------------------


def in_place(path: Path, fill: Callable[[Any], object]) -> tuple[str, int]:
    """As Mammoth and Catalyst do: no temporary file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        stream = files._Hashing(file)
        fill(stream)
        file.flush()
        os.fsync(file.fileno())
    files._sync_folder(path.parent)
    return stream.digest.hexdigest(), stream.size


def sidecar_first(path: Path, content: Any, about: Any) -> None:
    """The commit comes before what it commits."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    facts = {"format": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({**about, **facts}).encode()
    files.replace(files.sidecar(path), lambda file: file.write(text))
    files.replace(path, lambda file: file.write(data))


def fixed_temporary() -> Any:
    """One temporary name for ever: what a killed writer left stands in the way of the next."""
    return patch.object(files.secrets, "token_hex", lambda n: "0" * 2 * n)


# --- recording ------------------------------------------------------------------------------------

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
    """What a run did to the disk, and what it was told.

    Attributes:
        began: by file, the operation at which its commit began, and the state it is to hold.
        acknowledged: by file, the number of operations when its commit was told to be done.
        released: by file, the operation at which its removal began.
        told: gets the name of each acknowledged file.
    """

    recorder: Recorder
    told: Callable[[str], object] = lambda name: None
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
        """Record; temporary names are numbers, so that each recording has the same."""
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

        numbers = (f"{n:04}" for n in range(10_000))
        with (
            patch.multiple(files, commit=commit, link=link, remove=remove),
            patch.object(files.secrets, "token_hex", lambda n: next(numbers)),
            self.recorder.installed(),
        ):
            yield

    def _during(self, path: Path, content: Any, first: int, act: Any, *arguments: Any) -> None:
        self.began[path.name] = len(self.log), content
        self.next_sync = first
        act(path, *arguments)
        self.acknowledged[path.name] = len(self.log)
        self.told(path.name)


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
        steps = {begun[name]["n"] for name, v in verdicts.items() if v == "good"}
        promised = {begun[name]["n"] for name in acknowledged}
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
            self._verdicts[key] = verdict(self.scratch / "read" / path, self.recording.began[name][1])
        return self._verdicts[key]

    def _recovers(self, tree: Tree, again: frozenset[str]) -> bool:
        """Whether a run that goes on can write the files `again`, and leaves nothing behind."""
        key = again, frozenset(tree)
        if key not in self._recoveries:
            run = self.scratch / "recover"
            lay(tree, run)
            self._recoveries[key] = self._goes_on(run / "checkpoints", again)
        return self._recoveries[key]

    def _goes_on(self, folder: Path, again: frozenset[str]) -> bool:
        try:
            files.make_folder(folder)
            files.sweep(folder)
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


# --- tests ----------------------------------------------------------------------------------------


def test_power_loss_at_any_instant_loses_nothing(tmp_path: Path) -> None:
    recording = record(tmp_path / "run", rolling)
    states, found = power_losses(recording, tmp_path / "scratch", limit=256)
    print(f"\n{len(recording.log)} operations, {states} power losses, {dict(found)} violations")
    assert not found
    assert len(recording.log) > 100
    assert states > 5000


def storm(folder: Path) -> None:
    """`rolling` in `folder`/0, /1, …, killed before operation 0, 1, … until it is done."""
    for number in itertools.count():
        child = os.fork()
        if child == 0:
            run = folder / str(number)
            run.mkdir()
            told = os.open(folder / f"{number}.acknowledged", os.O_WRONLY | os.O_CREAT)

            def kill(operation: int, number: int = number) -> None:
                if operation == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            with Recording(
                Recorder(run, kill), lambda name, told=told: os.write(told, f"{name}\n".encode())
            ).on():
                rolling(run)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL


def test_sigkill_before_any_operation_loses_nothing(tmp_path: Path) -> None:
    recording = record(tmp_path / "run", rolling)
    judge, found = Judge(recording, tmp_path / "scratch"), Counter[str]()
    (tmp_path / "storm").mkdir()
    code = "import sys, pathlib, checkpoint.test_crash as t; t.storm(pathlib.Path(sys.argv[1]))"
    # A process of its own forks: it has never started a thread.
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "storm")],
        cwd=ROOT / "tests",
        env=environment(),
        check=True,
        timeout=120,
    )
    for done in range(len(recording.log) + 1):
        left = tree_of(tmp_path / "storm" / str(done))
        assert left == Disk(recording.log[:done]).tree(), "the kernel and the simulation differ"
        told = (tmp_path / "storm" / f"{done}.acknowledged").read_text().split()
        assert told == [name for name, at in recording.acknowledged.items() if at <= done]
        found.update(judge.faults(done, left))
    print(f"\n{len(recording.log)} kills, {dict(found)} violations")
    assert not found


@pytest.mark.parametrize("missing", SYNCS)
def test_no_fsync_is_superfluous(missing: str, tmp_path: Path) -> None:
    recording = record(tmp_path / "run", rolling, missing)
    states, found = power_losses(recording, tmp_path / "scratch", limit=32)
    print(f"\nwithout the fsync of {missing}: {states} power losses, {dict(found)} violations")
    assert found.total() > 0


@pytest.mark.parametrize(
    ("mutant", "what"),
    [
        pytest.param(lambda: patch.object(files, "replace", in_place), rolling, id="in-place"),
        pytest.param(lambda: patch.object(files, "commit", sidecar_first), rolling, id="sidecar"),
        pytest.param(fixed_temporary, rolling, id="fixed-temporary-name"),
        pytest.param(nullcontext, deleting_first, id="deleting-first"),
        pytest.param(nullcontext, in_a_young_folder, id="young-folder"),
    ],
)
def test_a_protocol_with_a_fault_is_caught(
    mutant: Callable[[], Any], what: Callable[[Path], None], tmp_path: Path
) -> None:
    with mutant():
        recording = record(tmp_path / "run", what)
        states, found = power_losses(recording, tmp_path / "scratch", limit=32)
    print(f"\n{states} power losses, {dict(found)} violations")
    assert found.total() > 0
