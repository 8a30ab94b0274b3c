"""Perdure: continual learning that is fast, and resumes to the bit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.config.compose import compose
    from perdure.run.api import train

__version__ = "0.1.0"
__all__ = ["compose", "train"]

STARTED = time.perf_counter()
"""When the package was first imported: the beginning of a run's `start` phase."""


def __getattr__(name: str) -> Any:
    """Import on first use: the bare package must cost nothing."""
    if name in __all__:
        from perdure.config import compose
        from perdure.run import api

        return getattr(api if name == "train" else compose, name)
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
