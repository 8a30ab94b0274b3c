"""Child processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.cli.processes import python

pytestmark = pytest.mark.process


def test_a_child_is_counted_and_its_output_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, sys; print(os.getcwd(), os.environ['OMP_NUM_THREADS']); sys.exit(3)"
    used = python("-c", code, log=log)
    assert used.status == 3
    assert log.read_text() == f"{Path.cwd()} 1\n"
    assert used.cpu_seconds > 0
    assert used.wall_seconds > 0
    assert used.peak_mb > 1


def test_a_killed_child_has_a_negative_status() -> None:
    assert python("-c", "import os; os.kill(os.getpid(), 9)").status == -9
