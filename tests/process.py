"""The real program in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """One thread a process, no colours, no terminal width of the developer's."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def train_in(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`train.py` with these arguments, run in `folder`."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@cache
def _forking() -> subprocess.Popen[str]:
    """The process that `refused_in` has its commands run by; it ends with this one."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "forked.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def refused_in(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `train_in`, for a command that ends before it trains: a fork of a warm process."""
    server = _forking()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as scratch:
        outputs = {name: str(Path(scratch, name)) for name in ("stdout", "stderr")}
        job = {
            "script": str(ROOT / "train.py"), "arguments": arguments, "cwd": str(folder),
            "environment": {**environment(), **(env or {})}, **outputs,
        }  # fmt: skip
        print(json.dumps(job), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        out, errors = (Path(path).read_text() for path in outputs.values())
    return subprocess.CompletedProcess(list(arguments), status, out, errors)


def run_folder(root: Path) -> Path:
    """The one run folder under `root`/outputs."""
    (folder,) = (root / "outputs").iterdir()
    return folder
