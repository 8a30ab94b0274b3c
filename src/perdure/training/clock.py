"""Timing: wall-clock and CPU seconds of each phase of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("start", "training", "evaluation", "checkpoint")


@dataclass(frozen=True)
class Moment:
    """When a run began, by both clocks of its process: now, if not said otherwise.

    Attributes:
        wall: `time.perf_counter()`.
        cpu: `time.process_time()`, which is 0 when the process begins.
    """

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)


class Clock:
    """Seconds per phase; entering a phase pauses the one around it.

    Args:
        started: when the run began, as the jobs of a sweep in one process do one after another;
            None is now. The time up to the first phase is `start`.
    """

    def __init__(self, started: Moment | None = None) -> None:
        started = started or Moment()
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.cpu_seconds = dict.fromkeys(PHASES, 0.0)
        self._phase = "start"
        self._wall, self._cpu = started.wall, started.cpu

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
