"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.tracking.events import Event, Recorder
from perdure.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


class Listener(Recorder):
    """Keeps every event."""

    def __init__(self) -> None:
        self.name = "listener"
        self.events: list[Event] = []

    def receive(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]
