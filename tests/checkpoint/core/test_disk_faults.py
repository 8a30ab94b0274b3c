"""When the disk fails: its own error is raised, nothing half-written stays, older files are intact.

Real errors of the kernel where one can be had without special rights; and an error at every single
operation, as a broken device gives.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from checkpoint.crashsim import Recorder
from process import ROOT, environment

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.ledger import entries
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.errors import UserError
from perdure.io import atomic
from perdure.training.state import Position, SaveContext

EARLIER = torch.arange(100)
LARGE = {"weights": torch.arange(50_000)}  # 400 kB: torch.save hides the error of such a write
MANY = {str(n): torch.full((50,), n) for n in range(200)}


def prepare(folder: Path) -> None:
    """A committed checkpoint that must outlive what comes."""
    files.write(folder / "earlier.pt", {"x": EARLIER}, {})


def assert_only_the_earlier(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["earlier.pt", "earlier.pt.json"]
    assert torch.equal(files.read(folder / "earlier.pt")["x"], EARLIER)


# --- errors of the kernel -------------------------------------------------------------------------


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond; Python ignores the signal, so EFBIG is reported."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n_bytes", [0, 1, 1000, 8192, 100_000])
@pytest.mark.parametrize("state", [LARGE, MANY], ids=["large", "many"])
def test_a_file_that_may_not_grow(tmp_path: Path, state: Any, n_bytes: int) -> None:
    prepare(tmp_path)
    with files_up_to(n_bytes), pytest.raises(OSError, match="too large") as caught:
        files.write(tmp_path / "new.pt", state, {})
    assert caught.value.errno == errno.EFBIG
    assert_only_the_earlier(tmp_path)
    files.write(tmp_path / "new.pt", state, {})
    assert files.read(tmp_path / "new.pt").keys() == {*state, "format"}


def test_no_room_for_the_sidecar_takes_the_file_back(tmp_path: Path) -> None:
    prepare(tmp_path)
    about = {"note": "x" * 100_000}
    with files_up_to(50_000), pytest.raises(OSError, match="too large"):
        files.write(tmp_path / "new.pt", {"x": 1}, about)
    assert_only_the_earlier(tmp_path)


def test_a_full_device(tmp_path: Path) -> None:
    prepare(tmp_path)
    really = os.open

    def full(path: Any, flags: int, *mode: int) -> int:
        return really("/dev/full", os.O_WRONLY) if flags & os.O_CREAT else really(path, flags)

    with patch.object(os, "open", full), pytest.raises(OSError, match="No space") as caught:
        files.write(tmp_path / "new.pt", LARGE, {})
    assert caught.value.errno == errno.ENOSPC
    assert_only_the_earlier(tmp_path)


def on_a_small_disk(folder: Path) -> None:
    """In a process with mounts of its own: fill a disk of 256 kB, then make it read-only."""

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments, str(folder)], check=True)

    def attempt(state: Any) -> int | None:
        try:
            files.write(folder / "new.pt", state, {})
        except OSError as error:
            return error.errno
        return None

    mount("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    prepare(folder)
    reported = [attempt(LARGE), attempt({f"{n}": MANY for n in range(4)})]
    assert_only_the_earlier(folder)
    assert attempt({"x": 1}) is None
    files.remove(folder / "new.pt")
    mount("-o", "remount,ro")
    reported.append(attempt({"x": 1}))
    assert_only_the_earlier(folder)
    atomic.make_folder(folder)
    print(json.dumps(reported))


@pytest.mark.process
def test_a_disk_that_is_full_and_one_that_is_read_only(tmp_path: Path) -> None:
    # A user and mount namespace: nobody else sees the mount, and it ends with the process.
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount: no unprivileged user namespaces")
    code = "import sys, pathlib, checkpoint.core.test_disk_faults as t; t.on_a_small_disk"
    result = subprocess.run(
        [*alone, sys.executable, "-c", f"{code}(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        cwd=ROOT / "tests",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [errno.ENOSPC, errno.ENOSPC, errno.EROFS]


# --- an error at every operation ------------------------------------------------------------------


class Broken:
    """Fails attempt `at` at an operation, and each later one too if it is `for_good`."""

    def __init__(self, at: int, for_good: bool) -> None:
        self.at = at
        self.for_good = for_good
        self.attempts = 0
        self.failed = False

    def __call__(self, number: int) -> None:
        self.attempts += 1
        if self.attempts > self.at and (self.for_good or not self.failed):
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def committing(folder: Path) -> None:
    files.write(folder / "new.pt", LARGE, {})


def linking(folder: Path) -> None:
    files.link(folder / "earlier.pt", folder / "new.pt", {})


def fails(folder: Path, act: Callable[[Path], None], before: Callable[[int], object]) -> int:
    """The number of the disk's error in `act`; 0 when it tells of none."""
    try:
        with Recorder(folder, before).installed():
            act(folder)
    except OSError as error:
        return error.errno or -1
    return 0


def fresh(root: Path) -> Iterator[tuple[int, Path]]:
    """0, 1, …, each with a folder that holds a committed checkpoint."""
    for at in itertools.count():
        folder = root / str(at)
        folder.mkdir()
        prepare(folder)
        yield at, folder


@pytest.mark.parametrize("act", [committing, linking])
def test_an_error_at_any_operation_leaves_nothing(
    tmp_path: Path, act: Callable[[Path], None]
) -> None:
    copied = 0
    for at, folder in fresh(tmp_path):
        broken = Broken(at, for_good=False)
        if reported := fails(folder, act, broken):
            assert reported == errno.EIO
            assert_only_the_earlier(folder)
            act(folder)
        elif broken.failed:
            copied += 1
        files.read(folder / "new.pt")
        assert not list(folder.glob(".tmp-*"))
        if not broken.failed:
            break
    print(f"\n{at} operations")
    assert copied == (2 if act is linking else 0)  # where a link fails, a copy is made
    assert at >= 9


def test_a_disk_that_goes_away_at_any_operation_leaves_what_was_there(tmp_path: Path) -> None:
    for at, folder in fresh(tmp_path):
        broken = Broken(at, for_good=True)
        reported = fails(folder, committing, broken)
        if not broken.failed:
            break
        assert reported == errno.EIO
        atomic.remove_temporaries(folder)
        assert torch.equal(files.read(folder / "earlier.pt")["x"], EARLIER)
        if not sidecars.path_of(folder / "new.pt").exists():  # else only its last fsync failed
            committing(folder)
        assert torch.equal(files.read(folder / "new.pt")["weights"], LARGE["weights"])
    assert at > 10


def test_a_folder_that_vanishes_is_an_error(tmp_path: Path) -> None:
    reported = []
    for at, folder in fresh(tmp_path):

        def vanish(number: int, at: int = at, folder: Path = folder) -> None:
            if number == at:
                shutil.rmtree(folder)

        reported.append(fails(folder, committing, vanish))
        if folder.exists():
            break
    # With only the last fsync to come, it is as if the folder vanished afterwards.
    assert reported == [errno.ENOENT] * (len(reported) - 2) + [0, 0]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "gone" / "new.pt", {"x": 1}, {})


# --- what others left -----------------------------------------------------------------------------


def test_a_symbolic_link_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "checkpoints"
    victim.write_text("precious")
    folder.mkdir()
    (folder / ".tmp-0").symlink_to(victim)
    known = patch.object(secrets, "token_hex", lambda n: "0")
    with known, pytest.raises(FileExistsError):
        files.write(folder / "new.pt", {"x": 1}, {})
    atomic.remove_temporaries(folder)
    assert list(folder.iterdir()) == []
    assert victim.read_text() == "precious"


def test_a_symbolic_link_at_the_final_name_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "new.pt").symlink_to(victim)
    files.write(tmp_path / "new.pt", {"x": 1}, {})
    assert victim.read_text() == "precious"
    assert files.read(tmp_path / "new.pt")["x"] == 1


def test_what_a_killed_writer_left_stands_in_no_ones_way(tmp_path: Path) -> None:
    (tmp_path / ".tmp-new.pt").write_bytes(b"half a file")
    (tmp_path / f".tmp-{'0' * 16}").write_bytes(b"another")
    (tmp_path / "new.pt").write_bytes(b"renamed, never committed")
    files.write(tmp_path / "new.pt", {"x": 1}, {})
    atomic.remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.pt", "new.pt.json"]
    atomic.remove_temporaries(tmp_path / "nowhere")


def test_a_full_disk_is_a_user_error_and_the_run_can_continue(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, "er", Policy(), Cadence())

    def save(n: int) -> None:
        manager.save({"model": LARGE, "n": n}, SaveContext(Position(0, 0, n, n), "task0", 0))

    save(1)
    with files_up_to(50_000), pytest.raises(UserError, match=r"checkpoint.*File too large"):
        save(2)
    assert [e.order[0] for e in entries(tmp_path)] == [1]
    save(3)
    assert [files.read(e.path)["n"] for e in entries(tmp_path)] == [1, 3]
