"""Child processes and what they used (CPU seconds, memory)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TRAIN = ("-m", "perdure", "train")
"""The program, for `python`."""


@dataclass(frozen=True)
class Usage:
    """What a child process took: its exit status (negative for a signal), time and memory."""

    status: int
    wall_seconds: float
    cpu_seconds: float
    peak_mb: float


def python(
    *arguments: str | Path, log: Path | None = None, variables: Mapping[str, str] | None = None
) -> Usage:
    """Run this Python with `arguments`, on one thread; waits for its end.

    Args:
        log: file for its output; None drops it.
        variables: of its environment, over those of this process.
    """
    # One thread in the libraries too, whatever the caller's shell says: the times are CPU time.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with open(os.devnull if log is None else log, "wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads, **(variables or {})},
        )
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            child.wait()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts kilobytes, macOS bytes.
    peak_mb = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    wall = time.perf_counter() - started
    return Usage(child.returncode, wall, used.ru_utime + used.ru_stime, peak_mb)
