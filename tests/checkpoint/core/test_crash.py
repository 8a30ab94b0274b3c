"""The protocol, stopped before every file operation and by power loss, loses nothing.

And the harness can tell: each protocol that leaves out one step is found to lose something.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from checkpoint.crashjudge import (
    KEEP,
    SYNCS,
    Judge,
    Recording,
    lay,
    numbered,
    power_losses,
    record,
    tree_of,
)
from checkpoint.crashsim import Disk, Recorder
from process import ROOT, environment

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.ledger import entries
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.io import atomic
from perdure.io.run_files import RunFiles
from perdure.run.resume import latest_intact
from perdure.training.state import Position, SaveContext


def state(n: int) -> dict[str, Any]:
    """A state that takes several writes, and tells its number."""
    return {"n": n, "weights": torch.arange(3000) * n, "buffer": torch.full((700,), n % 256).byte()}


# --- what a run does ------------------------------------------------------------------------------


def rolling(run: Path) -> None:
    """Rolling files of which two stay, a file for the task that ends, and its second name."""
    folder = run / "checkpoints"
    atomic.make_folder(folder)
    atomic.remove_temporaries(folder)
    for n in range(1, 5):
        files.write(folder / f"step-{n}.pth", state(n), {})
        if n == 3:
            files.write(folder / "er_0.pt", state(n), {})
            files.link(folder / "er_0.pt", folder / "task0.1.pth", {})
            atomic.update_link(folder / "best.pth", folder / "task0.1.pth")
        if n > KEEP:
            files.remove(folder / f"step-{n - KEEP}.pth")


def managed(run: Path) -> None:
    """The package's own manager, resuming from the newest intact file if there is one."""
    folder = RunFiles(run).checkpoints
    atomic.remove_temporaries(folder)
    source = latest_intact(run)
    manager = CheckpointManager(folder, "er", Policy(save=True, top_k=1), Cadence())
    for n in range(1 if source is None else source.state["n"] + 1, 9):
        task, step = divmod(n - 1, 4)
        about = SaveContext(Position(n // 4, step // 2, 0, n), f"task{task}", 1 + step // 2)
        if step % 2:  # two epochs a task, of which the second is better
            about.measured["average_accuracy.class_il"] = 0.1 * n
        if step == 3:
            about = replace(about, ended=task)
        manager.save({**state(n), "model": {"backbone.bias": torch.full((3,), n)}}, about)
    manager.finish()


def deleting_first(run: Path) -> None:
    """As Accelerate does: room is made before the new file is there."""
    folder = run / "checkpoints"
    atomic.make_folder(folder)
    for n in range(1, 5):
        if n > KEEP:
            files.remove(folder / f"step-{n - KEEP}.pth")
        files.write(folder / f"step-{n}.pth", state(n), {})


def in_a_young_folder(run: Path) -> None:
    """The folder itself is never made safe."""
    (run / "checkpoints").mkdir()
    files.write(run / "checkpoints" / "step-1.pth", state(1), {})


# --- protocols with a fault -----------------------------------------------------------------------


def in_place(
    path: Path, fill: Callable[[Any], object], digest: Any = None, *, durable: bool = True
) -> int:
    """As Mammoth and Catalyst do: no temporary file."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        stream = atomic._Stream(file, digest)
        fill(stream)
        file.flush()
        os.fsync(file.fileno())
    atomic.sync_folder(path.parent)
    return stream.n_bytes


def sidecar_first(path: Path, content: Any, about: Any) -> None:
    """The commit comes before what it commits."""
    if sidecars.path_of(path).exists():
        raise FileExistsError(path)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    facts = {"format": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps({**about, **facts}).encode()
    atomic.write_atomically(sidecars.path_of(path), text)
    atomic.write_atomically(path, data)


@contextmanager
def fixed_temporary() -> Iterator[None]:
    """One temporary name for ever: what a killed writer left stands in the way of the next."""
    with (
        patch.object(atomic, "remove_temporaries"),
        patch.object(secrets, "token_hex", lambda n: "0"),
    ):
        yield


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "limit", "operations", "states"),
    [
        pytest.param(rolling, 256, 90, 1500, id="format"),  # all there are
        pytest.param(managed, 24, 190, 3000, id="manager"),
    ],
)
def test_power_loss_at_any_instant_loses_nothing(
    what: Callable[[Path], None], limit: int, operations: int, states: int, tmp_path: Path
) -> None:
    recording = record(tmp_path / "run", what)
    tried, found = power_losses(recording, tmp_path / "scratch", limit)
    print(f"\n{len(recording.log)} operations, {tried} power losses, {dict(found)} violations")
    assert not found
    assert len(recording.log) > operations
    assert tried > states


def committed(run: Path) -> dict[str, Any]:
    """What counts in the run's folder: files with a sidecar, and links."""
    tree = tree_of(RunFiles(run).checkpoints)
    return {
        name: found
        for name, found in tree.items()
        if isinstance(found, str) or f"{name}.json" in tree or name.endswith(".json")
    }


def damage_the_newest(run: Path) -> None:
    """Flip one bit in the middle of the file that a resume would take, if there are two."""
    full = [entry for entry in entries(RunFiles(run).checkpoints) if entry.full]
    if len(full) > 1:
        data = bytearray(full[-1].path.read_bytes())
        data[len(data) // 2] ^= 1
        full[-1].path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "every"),
    [
        pytest.param(lambda run: None, 2, id="killed"),
        pytest.param(damage_the_newest, 5, id="killed-and-damaged"),
    ],
)
def test_a_run_killed_before_any_operation_ends_with_the_same_files(
    harm: Callable[[Path], None], every: int, tmp_path: Path
) -> None:
    recording = record(tmp_path / "run", managed)
    whole, different = committed(tmp_path / "run"), Counter[str]()
    for done in range(0, len(recording.log), every):
        lay(Disk(recording.log[:done]).tree(), tmp_path / "again")
        harm(tmp_path / "again")
        with patch.object(os, "fsync"):
            managed(tmp_path / "again")
        found = committed(tmp_path / "again")
        different.update(n for n in {*whole, *found} if whole.get(n) != found.get(n))
    print(f"\n{len(recording.log)} operations, files that differ: {dict(different)}")
    assert not different


def storm(folder: Path) -> None:
    """`rolling` in `folder`/0, /1, …, killed before operation 0, 1, … until it is done."""
    for number in itertools.count():
        child = os.fork()
        if child == 0:
            run = folder / str(number)
            run.mkdir()
            log = os.open(folder / f"{number}.acknowledged", os.O_WRONLY | os.O_CREAT)

            def kill(operation: int, number: int = number) -> None:
                if operation == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            def acknowledge(name: str, log: int = log) -> None:
                os.write(log, f"{name}\n".encode())

            recording = Recording(Recorder(run, kill), acknowledge)
            with numbered(), recording.on():
                rolling(run)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.process
def test_sigkill_before_any_operation_loses_nothing(tmp_path: Path) -> None:
    with numbered():
        recording = record(tmp_path / "run", rolling)
    judge, found = Judge(recording, tmp_path / "scratch"), Counter[str]()
    (tmp_path / "storm").mkdir()
    code = "import sys, pathlib, checkpoint.core.test_crash as t; t.storm"
    # A process of its own forks: it has never started a thread.
    subprocess.run(
        [sys.executable, "-c", f"{code}(pathlib.Path(sys.argv[1]))", str(tmp_path / "storm")],
        cwd=ROOT / "tests",
        env=environment(),
        check=True,
        timeout=120,
    )
    for done in range(len(recording.log) + 1):
        left = tree_of(tmp_path / "storm" / str(done))
        assert left == Disk(recording.log[:done]).tree(), "the kernel and the simulation differ"
        reported = (tmp_path / "storm" / f"{done}.acknowledged").read_text().split()
        assert reported == [name for name, at in recording.acknowledged.items() if at <= done]
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
        pytest.param(
            lambda: patch.object(atomic, "write_stream", in_place), rolling, id="in-place"
        ),
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
