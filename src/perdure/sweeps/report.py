"""What became of each job of this command's sweep: a line as it happens, a summary at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from perdure.errors import RESUMABLE, ExitRun
from perdure.ranks import environment
from perdure.sweeps.jobs import Job, Outcome, again


class Board:
    """Keeps the outcomes of a sweep, and says them.

    Attributes:
        rest: the word for jobs that have not ended.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.rest = "not started"
        self.jobs: dict[int, Job] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._trials: int | None = None

    def expect(self, jobs: Sequence[Job], sweep: DictConfig, at_once: str) -> None:
        """These are to run; a search announces some more each time."""
        if not self.jobs:
            self.folder = Path(sweep.sweep.dir)
            self._trials = sweep.sweeper.get("n_trials")
            _say(f"sweep in {self.folder}: {_jobs(self._trials or len(jobs))}{at_once}")
        self.jobs |= {job.number: job for job in jobs}

    def started(self, job: Job) -> None:
        """Say that `job` runs now."""
        _say(f"job {job.number} started: {job.name}")

    def submitted(self, job: Job, ticket: str) -> None:
        """Say that a cluster has taken `job`, and how it calls it."""
        _say(f"job {job.number} submitted as {ticket}: {job.name}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Keep and say how `job` ended."""
        self.outcomes[job.number] = outcome
        how = "was finished before" if outcome.before else outcome.word
        took = f" after {outcome.seconds:.0f} s" if outcome.seconds else ""
        value = "" if outcome.value is None else f", average accuracy {100 * outcome.value:.2f} %"
        why = f": {_short(outcome)}" if outcome.reason else ""
        _say(f"job {job.number} {how}{took}{value}: {job.name}{why}")

    def summary(self) -> None:
        """Say how many ended how, and which did not end well."""
        counts = Counter(outcome.word for outcome in self.outcomes.values())
        counts[self.rest] = len(self.jobs) - len(self.outcomes)
        words = ("finished", "failed", "interrupted", self.rest)
        shown = [f"{counts[word]} {word}" for word in words if counts[word] or word == "finished"]
        _say(f"sweep in {self.folder}: {', '.join(shown)}")
        for number, outcome in sorted(self.outcomes.items()):
            if outcome.word == "failed":
                job = self.jobs[number]
                where = f" (see {job.folder})" if job.folder.is_dir() else ""
                _say(f"  failed: job {number}, {job.name}: {outcome.reason}{where}")
        values = {n: o.value for n, o in self.outcomes.items() if o.value is not None}
        # Of a sweep over seeds the best one says nothing.
        if values and self._trials:
            best = max(values, key=lambda n: values[n])
            _say(f"  best: job {best}, {self.jobs[best].name}: {100 * values[best]:.2f} %")

    @property
    def missing(self) -> int:
        """How many jobs have not finished."""
        done = sum(outcome.word == "finished" for outcome in self.outcomes.values())
        return len(self.jobs) - done

    @property
    def status(self) -> int:
        """Exit status of the whole: 0, 75 if jobs can go on, 2 if users erred, else 1."""
        words = {outcome.word for outcome in self.outcomes.values()}
        if "interrupted" in words:
            return RESUMABLE
        failures = {o.status for o in self.outcomes.values() if o.word == "failed"}
        return 0 if not failures else 2 if failures == {2} else 1


BOARD = Board()
"""One a process, as one command is one sweep."""


def concluding(main: Callable[[], Any]) -> None:
    """Run `main`; if that was a sweep, tell how it ended.

    Raises:
        ExitRun: not every job finished; carries the exit status of the sweep.
    """
    try:
        main()
    except ExitRun as leaving:
        if not BOARD.jobs or (leaving.code != RESUMABLE and not environment.is_main()):
            raise  # another rank's summary is not shown, so that it says its reason
        _conclude(int(leaving.code or 0))
    except ValueError:
        # Optuna's own error for a search without a single good trial says less than the jobs do.
        if not BOARD.outcomes or any(o.status == 0 for o in BOARD.outcomes.values()):
            raise
    if BOARD.jobs:
        _conclude(BOARD.status)


def _conclude(status: int) -> None:
    BOARD.summary()
    if status:
        what = f"{BOARD.missing} of {_jobs(len(BOARD.jobs))} did not finish"
        command = again(sys.argv[1:], BOARD.folder)
        raise ExitRun(f"{what}; {command} runs what is missing", status)


def _say(line: str) -> None:
    if environment.is_main():
        print(line, flush=True)


def _jobs(n: int) -> str:
    return f"{n} job{'' if n == 1 else 's'}"


def _short(outcome: Outcome) -> str:
    """How an interrupted run goes on by itself is not what the reader of a sweep needs."""
    return outcome.reason.partition(";")[0] if outcome.word == "interrupted" else outcome.reason
