"""Comparing configurations: which keys may change when a run is resumed, and which make it another.

The one list of these keys (`FREE`) serves resumed runs, forks and the jobs of a sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perdure.errors import UserError

FREE = (
    "checkpoint",
    "tracking",
    "data.root",
    "data.max_minutes",
    "output_root",
    "timestamp",
    "device",
    "threads",
    "training.log_every",
    "training.collective_timeout",
    "training.evaluate_every",
    "training.eval_batch_size",
    "dataset.stop_after",
    "recipe",
)
"""Keys (and what is below them) that may differ between a checkpoint and the resumed run."""

_ABSENT: Any = object()


def is_free(key: str) -> bool:
    """Whether `key` may change when a run is resumed."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def listed(value: Any) -> Any:
    """A tuple as a list: configurations know only these."""
    return list(value) if isinstance(value, tuple) else value


def differences(
    now: Mapping[str, Any], before: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ: (key, value now, value before)."""
    for key in [*before, *(k for k in now if k not in before)]:
        a, b = now.get(key, _ABSENT), before.get(key, _ABSENT)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b and listed(a) != listed(b):
            yield f"{prefix}{key}", a, b


def require_same(
    now: Mapping[str, Any],
    before: Mapping[str, Any],
    path: Path,
    otherwise: str = "start a run of its own with checkpoint.fork=true",
) -> None:
    """Refuse to resume a run under another configuration.

    Args:
        now: the configuration of the command.
        before: that of the run.
        path: the run's checkpoint or folder.
        otherwise: what to do to run with the differences.

    Raises:
        UserError: lists every difference that matters.
    """
    found = [
        f"{key}={_shown(a)} (was {_shown(b)})"
        for key, a, b in differences(now, before)
        if not is_free(key)
    ]
    if found:
        raise UserError(
            f"{path}: the run was made with another configuration: {', '.join(found)}; leave "
            f"these as they were, or {otherwise}"
        )


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)
