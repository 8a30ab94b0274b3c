"""Loss scope: over which classes cross-entropy is taken (all, those seen, the task's: masking).

A scope is None (all columns of the logits), a range of labels, or a tuple of them; a range is a
slice of the logits, a tuple a gather. A batch that is joined from others keeps the scope of each
run of examples: `Scopes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from perdure.datasets.classes import Classes

Scope = range | tuple[int, ...] | None
Scopes = tuple[tuple[int, Scope], ...]
"""(number of examples, their scope), one after another; neighbors differ."""


class OfTask(Protocol):
    """What a scope follows from: a task (`perdure.models.base.Task`)."""

    @property
    def classes(self) -> Sequence[int]: ...

    @property
    def seen(self) -> Sequence[int]: ...


def scopes(loss_scope: str, task: OfTask) -> tuple[Scope, Scope]:
    """The scopes of the current batch and of a replay draw.

    Args:
        loss_scope: "full", all classes of the benchmark; "seen", those that have occurred so far;
            "current", those of the task for its own examples, those seen for replayed ones.
        task: the current one.
    """
    if loss_scope == "full":
        return None, None
    if loss_scope not in ("seen", "current"):
        raise ValueError(f"loss_scope={loss_scope}: must be full, seen or current")
    seen = scope_of(task.seen)
    return (seen if loss_scope == "seen" else scope_of(task.classes)), seen


def scope_of(classes: Sequence[int]) -> Scope:
    """The labels as a range where they are consecutive, else as a tuple."""
    if isinstance(classes, range) and classes.step == 1:
        return classes
    if isinstance(classes, Classes):
        return range(classes.start, classes.stop) if classes.is_range else tuple(classes)
    consecutive = range(classes[0], classes[0] + len(classes)) if classes else range(0)
    return consecutive if tuple(classes) == tuple(consecutive) else tuple(classes)


def columns(logits: Tensor, scope: Scope) -> Tensor:
    """The logits of the classes in `scope`: [B, classes] -> [B, len(scope)]."""
    if scope is None:
        return logits
    if isinstance(scope, range):
        return logits[:, scope.start : scope.stop]
    return logits.index_select(1, _indices(scope, logits.device)[0])


def positions(y: Tensor, scope: Scope) -> Tensor:
    """Labels as columns of what `columns` gives, int64 [B]; one outside of `scope` is no column."""
    if scope is None or scope == range(0):
        return y
    if isinstance(scope, range):
        return y - scope.start if scope.start else y
    return _indices(scope, y.device)[1][y]


@lru_cache(maxsize=64)
def _indices(scope: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The labels, and for each label its place among them: copied to the device once a scope."""
    labels = torch.tensor(scope, dtype=torch.int64)
    # Of a label that is not among them a place that cross-entropy refuses, whatever the device.
    places = torch.full((max(scope) + 1,), len(scope), dtype=torch.int64)
    places[labels] = torch.arange(len(scope))
    return labels.to(device), places.to(device)


def joined(parts: Iterable[Scopes]) -> Scopes:
    """The scopes of batches one after another."""
    runs: list[tuple[int, Scope]] = []
    for n, scope in (run for part in parts for run in part):
        if runs and (runs[-1][1] == scope or not (n and runs[-1][0])):
            # Of two runs without difference, or one of which is empty, one remains.
            before, kept = runs.pop()
            runs.append((before + n, scope if n else kept))
        else:
            runs.append((n, scope))
    return tuple(runs)


def part_of(runs: Scopes, start: int, stop: int) -> Scopes:
    """The scopes of the examples `start` … `stop`."""
    found, first = [], 0
    for n, scope in runs:
        found.append((max(0, min(stop, first + n) - max(start, first)), scope))
        first += n
    return joined([tuple(found)])
