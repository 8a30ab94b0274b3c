"""Seconds of a run, in a process that may have done other things before."""

from __future__ import annotations

import time

from perdure.training.clock import Clock, Moment


def test_a_run_counts_from_its_own_beginning() -> None:
    while time.process_time() < 0.2:
        sum(range(10_000))
    totals = Clock().totals()
    assert totals["cpu_seconds"]["total"] < 0.1
    whole = Clock(Moment(time.perf_counter() - 50, 0.0)).totals()
    assert whole["seconds"]["start"] >= 50
    assert whole["cpu_seconds"]["start"] >= 0.2


def test_a_resumed_run_adds_the_processes_before() -> None:
    clock = Clock()
    clock.load_state_dict(
        {name: dict.fromkeys(clock.seconds, 10.0) for name in ("seconds", "cpu_seconds")}
    )
    assert 40 <= clock.totals()["seconds"]["total"] < 41
