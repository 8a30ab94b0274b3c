"""How far a sweep is: jobs done, failed, running, the time left; and its summary on disk."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean

from perdure.ranks import environment
from perdure.sweeps.jobs import Outcome

log = logging.getLogger("perdure")
_PAUSE = 20
"""Writing the summary takes at most one part of so many of the time."""


class Progress:
    """Counts the jobs of a sweep and estimates the time left.

    Args:
        clock: seconds that never go back.

    Attributes:
        total: jobs in all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._clock = clock
        self._running: dict[int, float] = {}
        self._queued: dict[int, float] = {}
        self._ended: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._slots = 1
        self._first_queued: float | None = None

    def started(self, number: int) -> None:
        """The job `number` runs now."""
        self._running[number] = self._clock()
        self._slots = max(self._slots, len(self._running))

    def submitted(self, number: int) -> None:
        """The job `number` is in the queue of a cluster, which says no more of it."""
        self._queued[number] = self._clock()
        if self._first_queued is None:
            self._first_queued = self._queued[number]

    def ended(self, number: int, outcome: Outcome) -> None:
        """The job `number` has ended."""
        self._running.pop(number, None)
        self._queued.pop(number, None)
        self._ended[outcome.result] += 1
        if outcome.result == "finished" and outcome.seconds:
            self._seconds.append(outcome.seconds)

    @property
    def n_left(self) -> int:
        """Jobs that have not ended."""
        return max(0, self.total - sum(self._ended.values()))

    @property
    def line(self) -> str:
        """`12 of 40 jobs done, 1 failed, 2 running, about 14 min left`."""
        counts = [
            (self._ended["failed"], "failed"),
            (self._ended["interrupted"], "interrupted"),
            (len(self._running), "running"),
        ]
        parts = [f"{self._ended['finished']} of {self.total} jobs done"]
        parts += [f"{n} {what}" for n, what in counts if n]
        if (left := self.seconds_left()) is not None:
            parts.append(f"about {_rounded(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """From the mean duration of the finished jobs; None where none has finished here.

        Jobs of a cluster are taken to run as many at a time as they have so far.
        """
        if not self._seconds or not self.n_left:
            return None
        each, now = mean(self._seconds), self._clock()
        waiting = self.n_left - len(self._running)
        rest = sum(max(0.0, each - (now - start)) for start in self._running.values())
        slots = float(self._slots)
        if self._first_queued is not None and now > self._first_queued:
            slots = max(1.0, sum(self._seconds) / (now - self._first_queued))
        return (waiting * each + rest) / slots


class SweepFiles:
    """Keeps the summary in a sweep's folder up to date, at a small part of the sweep's time.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0
        self._is_stale = False
        self._failed = False

    def changed(self) -> None:
        """A job has ended."""
        self._is_stale = True

    def update(self, folder: Path, jobs: Mapping[Path, str], now: bool = False) -> None:
        """Write the files if something has changed, and writing them is due.

        A failure is logged once, and never ends the sweep.

        Args:
            folder: the sweep's.
            jobs: folder of each job → how it ended, as `Outcome.result` says; empty: it has not.
            now: whether to write whatever the time.
        """
        started = self._clock()
        if not self._is_stale or not environment.is_main() or (started < self._due and not now):
            return
        self._is_stale = False
        try:
            _write(folder, jobs)
        except Exception as error:  # of whatever the folders hold: the runs matter more
            if not self._failed:
                log.warning("%s: its summary could not be written (%s)", folder, error)
            self._failed = True
        ended = self._clock()
        self._due = ended + _PAUSE * (ended - started)


def _write(folder: Path, jobs: Mapping[Path, str]) -> None:
    from perdure.analysis.runs import read_run  # imports NumPy; most commands are no sweep
    from perdure.analysis.summary import summary_of
    from perdure.analysis.sweep_report import write as write_report

    if not folder.is_dir():
        return
    runs = [
        # A run that was killed has not written that it has ended, nor one that never began.
        run if run.is_finished or not ended else replace(run, status=ended)
        for run, ended in ((read_run(job), ended) for job, ended in jobs.items())
    ]
    summary_of(f"Sweep {folder.name}", runs).write(folder)
    write_report(folder, runs)


def _rounded(seconds: float) -> str:
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
