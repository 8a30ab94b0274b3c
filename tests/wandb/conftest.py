"""A server whose client does not wait long; a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from mirrored import RunFolder, hurried

__all__ = ["hurried"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """With the rows and results of two tasks."""
    made = RunFolder(tmp_path / "run")
    made.write(20)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where fetched artifacts are kept."""
    return tmp_path / "cache"
