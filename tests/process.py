"""The real program in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
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


def run_folder(root: Path) -> Path:
    """The one run folder under `root`/outputs."""
    (folder,) = (root / "outputs").iterdir()
    return folder
