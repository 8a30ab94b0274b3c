"""Who this process is among the ranks that `torchrun` started (one process: rank 0 of 1)."""

from __future__ import annotations

import os


def rank() -> int:
    """This process's global rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many ranks there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this rank is the one that writes, prints and logs."""
    return rank() == 0
