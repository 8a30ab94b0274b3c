"""Sweep report: a line when a job starts or ends, how far it is, a summary, the exit status."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from perdure.errors import RESUMABLE, ExitRun
from perdure.ranks import environment
from perdure.sweeps.jobs import Job, Outcome, command_to_continue
from perdure.sweeps.progress import Progress, SweepFiles


class SweepReport:
    """Collects the outcomes of a sweep's jobs, prints them, and keeps its summary on disk.

    Attributes:
        rest: how jobs are called that have not ended.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.rest = "not started"
        self.jobs: dict[int, Job] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._trials: int | None = None
        self._progress = Progress()
        self._files = SweepFiles()

    def announce(self, jobs: Sequence[Job], sweep: DictConfig, schedule: str) -> None:
        """Print how many jobs will run; a search announces some more each time."""
        if not self.jobs:
            self.folder = Path(sweep.sweep.dir)
            self._trials = sweep.sweeper.get("n_trials")
            _print(f"sweep in {self.folder}: {_jobs(self._trials or len(jobs))}{schedule}")
        self.jobs |= {job.number: job for job in jobs}
        self._progress.total = max(self._trials or 0, len(self.jobs))

    def started(self, job: Job) -> None:
        """Print that `job` runs now."""
        self._progress.started(job.number)
        _print(f"job {job.number} started: {job.name}")

    def submitted(self, job: Job, job_id: str) -> None:
        """Print that a cluster has queued `job`, and under which id."""
        self._progress.submitted(job.number)
        _print(f"job {job.number} submitted as {job_id}: {job.name}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Collect and print how `job` ended, and how far the sweep is."""
        self.outcomes[job.number] = outcome
        result = "was finished before" if outcome.finished_before else outcome.result
        took = f" after {outcome.seconds:.0f} s" if outcome.seconds else ""
        value = "" if outcome.value is None else f", average accuracy {100 * outcome.value:.2f} %"
        why = f": {_short(outcome)}" if outcome.reason else ""
        _print(f"job {job.number} {result}{took}{value}: {job.name}{why}")
        self._progress.ended(job.number, outcome)
        if self._progress.n_left and not outcome.finished_before:
            _print(self._progress.line)
        self._files.changed()
        self.update()

    def update(self, now: bool = False) -> None:
        """Write the summary of the sweep into its folder, where that is due (or `now`)."""
        if not self.jobs:  # no sweep has been announced, so it has no folder
            return
        ended = {number: outcome.result for number, outcome in self.outcomes.items()}
        jobs = {job.folder: ended.get(number, "") for number, job in self.jobs.items()}
        self._files.update(self.folder, jobs, now)

    def print_summary(self) -> None:
        """Print how many ended how, which failed, and the best trial of a search."""
        counts = Counter(outcome.result for outcome in self.outcomes.values())
        counts[self.rest] = len(self.jobs) - len(self.outcomes)
        results = ("finished", "failed", "interrupted", self.rest)
        shown = [f"{counts[r]} {r}" for r in results if counts[r] or r == "finished"]
        _print(f"sweep in {self.folder}: {', '.join(shown)}")
        for number, outcome in sorted(self.outcomes.items()):
            if outcome.result == "failed":
                job = self.jobs[number]
                where = f" (see {job.folder})" if job.folder.is_dir() else ""
                _print(f"  failed: job {number}, {job.name}: {outcome.reason}{where}")
        values = {n: o.value for n, o in self.outcomes.items() if o.value is not None}
        # The best job of a sweep over seeds means nothing.
        if values and self._trials:
            best = max(values, key=lambda n: values[n])
            _print(f"  best: job {best}, {self.jobs[best].name}: {100 * values[best]:.2f} %")

    @property
    def n_unfinished(self) -> int:
        """How many jobs have not finished."""
        done = sum(outcome.result == "finished" for outcome in self.outcomes.values())
        return len(self.jobs) - done

    @property
    def status(self) -> int:
        """Exit status of the sweep: 0, 75 if jobs can be resumed, 2 after users' errors, else 1."""
        results = {outcome.result for outcome in self.outcomes.values()}
        if "interrupted" in results:
            return RESUMABLE
        failures = {o.status for o in self.outcomes.values() if o.result == "failed"}
        return 0 if not failures else 2 if failures == {2} else 1


REPORT = SweepReport()
"""The report of this process's sweep; one command is one sweep.

Process-wide, since Hydra itself makes the launcher, from the configuration alone, while the summary
is printed by the caller of Hydra. `SweepLauncher.report` and the command line are its only users.
"""


def with_summary(main: Callable[[], Any], report: SweepReport) -> None:
    """Run `main`; if that was a sweep, print the summary of `report`.

    Raises:
        ExitRun: not every job finished; carries the exit status of the sweep.
    """
    try:
        main()
    except ExitRun as leaving:
        if not report.jobs or (leaving.code != RESUMABLE and not environment.is_main()):
            raise  # only rank 0 prints a summary; any other rank reports its reason
        _conclude(report, int(leaving.code or 0))
    except ValueError:
        # Optuna's own error for a search without any finished trial explains less than the jobs.
        if not report.outcomes or any(o.status == 0 for o in report.outcomes.values()):
            raise
    finally:
        report.update(now=True)
    if report.jobs:
        _conclude(report, report.status)


def _conclude(report: SweepReport, status: int) -> None:
    report.print_summary()
    if status:
        what = f"{report.n_unfinished} of {_jobs(len(report.jobs))} did not finish"
        command = command_to_continue(sys.argv[1:], report.folder)
        raise ExitRun(f"{what}; {command} runs what is missing", status)


def _print(line: str) -> None:
    if environment.is_main():
        print(line, flush=True)


def _jobs(n: int) -> str:
    return f"{n} job{'' if n == 1 else 's'}"


def _short(outcome: Outcome) -> str:
    """The reason; without the command that resumes an interrupted run alone, not the sweep."""
    return outcome.reason.partition(";")[0] if outcome.result == "interrupted" else outcome.reason
