"""docs/reliability.md is that of its table, and every test that it names exists."""

from __future__ import annotations

import subprocess
import sys

import pytest
import reliability
from process import ROOT, environment

pytestmark = pytest.mark.process


def test_the_page_is_current() -> None:
    expected = reliability.page(reliability.read_table())
    assert reliability.PAGE.read_text() == expected, "run python scripts/reliability.py"


def test_every_test_that_is_named_exists() -> None:
    named = reliability.tests_of(reliability.read_table())
    files = sorted({test.partition("::")[0] for test in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "-n", "0",
         "-p", "no:cacheprovider", *files],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.partition("[")[0] for line in done.stdout.splitlines()}
    assert [test for test in named if test.partition("[")[0] not in found] == []
