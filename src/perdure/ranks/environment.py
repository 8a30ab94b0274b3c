"""Who this process is among the ranks that `torchrun` started (one process: rank 0 of 1), and how
it lives and ends with the others. Nothing here imports torch."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1


def rank() -> int:
    """This process's global rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many ranks there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """How many CPU cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_main() -> bool:
    """Whether this rank is the one that writes, prints and logs."""
    return rank() == 0


def restart_count() -> int:
    """How often torchrun has started these ranks anew after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join() -> None:
    """What a rank does first: end when its launcher dies, and leave the screen to rank 0.

    SIGTERM, as from a cluster: a rank that trains saves and leaves, another one just ends.
    """
    if world_size() == 1:
        return
    end_with(os.getppid())
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process lives)
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def end_with(parent: int) -> None:
    """Get SIGTERM (Linux) when the process that started this one dies, however it dies."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)  # it died just before prctl


def scratch() -> str:
    """A folder for what a rank must write and nobody reads; it goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="perdure-")
    atexit.register(folder.cleanup)
    return folder.name


@contextmanager
def waiting() -> Iterator[None]:
    """Let SIGTERM end the process at once while it has nothing to save and only waits.

    A handler in Python would not run before the wait, in the library, is over.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def let_main_speak(seconds: float = 5.0) -> None:
    """Give rank 0 the time to fail of the same error and to show it, so that it is shown once.

    torchrun ends all ranks when the first one fails: this returns only on rank 0, and where rank 0
    does not fail likewise.
    """
    if not is_main():
        signal.signal(signal.SIGTERM, _end)
        time.sleep(seconds)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
