"""Each kind of event reaches its handler, and a misspelled handler is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from perdure.tracking.events import Event, Recorder

KINDS = Event.__subclasses__()
HANDLERS = sorted(name for name in vars(Recorder) if name.startswith("on_"))


def an_event(kind: type) -> Any:
    return kind(**{field.name: None for field in fields(kind)})


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_an_event_reaches_the_one_handler_of_its_kind(kind: type[Event]) -> None:
    handled: list[tuple[str, Event]] = []

    class Everything(Recorder):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return lambda event: handled.append((name, event))
            return super().__getattribute__(name)

    event = an_event(kind)
    Everything().receive(event)
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__)
    assert handled == [(f"on{words}", event)]


def test_there_is_one_handler_for_each_kind_and_none_has_to_be_defined() -> None:
    assert len(HANDLERS) == len(KINDS)
    recorder = Recorder()
    for kind in KINDS:
        recorder.receive(an_event(kind))
    recorder.load_state_dict(recorder.state_dict())


def test_a_misspelled_handler_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^Wrong\.on_task_ends handles no event"):
        type("Wrong", (Recorder,), {"on_task_ends": lambda self, event: None})
    right = type("Right", (Recorder,), dict.fromkeys(HANDLERS, lambda self, event: None))
    with pytest.raises(TypeError, match=r"^Wronger\.on_steps handles no event"):
        type("Wronger", (right,), {"on_steps": lambda self, event: None})
