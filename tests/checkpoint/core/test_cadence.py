"""When a run saves within a task."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.checkpoint.core.cadence import Cadence
from perdure.errors import UserError
from perdure.training.state import Position


def steps_due(cadence: Cadence, n: int, per_epoch: int = 10) -> list[int]:
    due = []
    for step in range(1, n + 1):
        position = Position(0, step // per_epoch, step % per_epoch, step)
        if cadence.step_due(position):
            due.append(step)
            cadence.saved()
    return due


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        pytest.param("task", [], id="task"),
        pytest.param("epoch", [10, 20, 30], id="epoch"),
        pytest.param("7 steps", [7, 14, 21, 28], id="steps"),
        pytest.param(["task", "12 steps", "epoch"], [10, 12, 20, 24, 30], id="several"),
        pytest.param(7, [7, 14, 21, 28], id="bare"),
        pytest.param("7", [7, 14, 21, 28], id="bare-text"),
        pytest.param(["epoch", 12], [10, 12, 20, 24, 30], id="bare-among-others"),
        pytest.param([], [], id="empty"),
        pytest.param(None, [], id="default"),
    ],
)
def test_step_cadences(every: str | int | list[str | int] | None, expected: list[int]) -> None:
    assert steps_due(Cadence(every), 30) == expected


def test_minutes_count_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("perdure.checkpoint.core.cadence.time.monotonic", lambda: now)
    cadence = Cadence("2 minutes")
    now = 219.0
    assert not cadence.time_due()
    now = 220.0
    assert cadence.time_due()
    cadence.saved()
    assert not cadence.time_due()


@pytest.mark.parametrize(
    "every",
    ["tasks", "0 steps", "-1 steps", "1.5 steps", "5 hours", "", 0, -3, 1.5, True, {"steps": 3}],
)
def test_anything_else_is_refused(every: Any) -> None:
    for form in (every, [every]):
        with pytest.raises(UserError, match=r"checkpoint\.every"):
            Cadence(form)


def test_task_makes_no_sense_jointly() -> None:
    with pytest.raises(UserError, match="training=joint"):
        Cadence("task", joint=True)
    Cadence(None, joint=True)
