"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from perdure import testing
from perdure.tracking.events import Event, Recorder
from perdure.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]

check_method = partial(testing.check_method, every=5)
"""For the methods of the repository, of which there are many."""


class Listener(Recorder):
    """Keeps every event."""

    name = "listener"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


CLOCK = {"clock", "seconds", "cpu_seconds"}


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where
