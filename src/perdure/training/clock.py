"""Timing: wall-clock and CPU seconds of each phase of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("start", "training", "evaluation", "checkpoint")


class Clock:
    """Seconds per phase; entering a phase pauses the one around it.

    Args:
        started: `time.perf_counter()` when the process began; None counts from now. The time up to
            the first phase is `start`. With `started`, CPU time counts from the process's start.
    """

    def __init__(self, started: float | None = None) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.cpu_seconds = dict.fromkeys(PHASES, 0.0)
        self._phase = "start"
        self._wall = time.perf_counter() if started is None else started
        self._cpu = 0.0 if started is not None else time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside to `name`."""
        outer = self._phase
        self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def totals(self) -> dict[str, dict[str, float]]:
        """`{"seconds": {phase: …, "total": …}, "cpu_seconds": {…}}` up to now."""
        self._switch(self._phase)
        return {
            name: {
                **{k: round(v, 3) for k, v in table.items()},
                "total": round(sum(table.values()), 3),
            }
            for name, table in (("seconds", self.seconds), ("cpu_seconds", self.cpu_seconds))
        }

    def _switch(self, name: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.seconds[self._phase] += wall - self._wall
        self.cpu_seconds[self._phase] += cpu - self._cpu
        self._phase, self._wall, self._cpu = name, wall, cpu

    def state_dict(self) -> dict[str, dict[str, float]]:
        self._switch(self._phase)
        return {"seconds": dict(self.seconds), "cpu_seconds": dict(self.cpu_seconds)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Add the seconds of the processes before this one."""
        for name in PHASES:
            self.seconds[name] += state["seconds"][name]
            self.cpu_seconds[name] += state["cpu_seconds"][name]
