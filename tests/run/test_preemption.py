"""Flags that signals set."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from perdure.run.preemption import StopFlag

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_a_reason_to_stop(number: signal.Signals) -> None:
    flag = StopFlag()
    flag.install()
    assert flag() is None
    os.kill(os.getpid(), number)
    assert flag() == f"stopped by {number.name}"


def test_a_signal_between_two_runs_reaches_the_next() -> None:
    former, next_one = StopFlag(), StopFlag()
    former.install()
    os.kill(os.getpid(), signal.SIGTERM)
    next_one.install()
    assert next_one() == "stopped by SIGTERM"
