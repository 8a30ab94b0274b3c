"""Comparing configurations: which keys may change when a run is resumed, and which make it another.

The one list of these keys (`FREE`) serves resumed runs, forks and the jobs of a sweep. Of the
others, those in `BENCHMARK` are fixed for a fork too, by the tasks that were learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    "training.evaluate_every_task",
    "training.eval_batch_size",
    "evaluation",
    "dataset.stop_after",
    "recipe",
)
"""Keys (and what is below them) that may differ between a checkpoint and the resumed run."""

BENCHMARK = (
    "dataset.source",
    "dataset.scenario",
    "dataset.transform",
    "dataset.n_tasks",
    "dataset.class_sizes",
    "dataset.initial_classes",
    "dataset.increment",
    "dataset.seed",
    "dataset.class_order",
    "dataset.validation",
    "dataset.noise",
    "dataset.imbalance",
)
"""Keys (and what is below them) that say what each task is: its examples, labels and split."""

_DECIDES_RESULT = ("dataset.stop_after", "recipe")
"""Free keys that decide the result of a finished run all the same: `recipe` stands for values that
the overrides do not show."""

_ABSENT: Any = object()


@dataclass(frozen=True)
class Change:
    """A key that differs between a checkpoint's configuration and that of the run from it."""

    key: str
    now: Any
    before: Any

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.now)} (was {_shown(self.before)})"


def is_within(key: str, keys: Iterable[str]) -> bool:
    """Whether `key` is one of `keys` or below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in keys)


def is_free(key: str) -> bool:
    """Whether `key` may change when a run is resumed."""
    return is_within(key, FREE)


def decides_result(key: str) -> bool:
    """Whether finished runs that differ in `key` are of different settings."""
    return not is_free(key) or key in _DECIDES_RESULT


def changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Change]:
    """What makes the configuration `now` that of another run than `before`."""
    return [Change(*found) for found in differences(now, before) if not is_free(found[0])]


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
    found = changes(now, before)
    if found:
        raise UserError(
            f"{path}: the run was made with another configuration: {', '.join(map(str, found))}; "
            f"leave these as they were, or {otherwise}"
        )


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)
