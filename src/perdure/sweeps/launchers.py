"""Hydra launchers: the jobs of a sweep in this process, or in several processes of this machine.

Hydra's own plugins for joblib, submitit and Ray run a job's function in a worker and wait for all
in order: the first one that raises ends the waiting, a worker that is killed ends the whole sweep,
and an interrupted run is lost with the pool. Here a job is always `perdure train …` in a process
of its own (or, by default, a call in this one), and only the scheduling differs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from perdure.config.compose import expand_home
from perdure.errors import RESUMABLE, ExitRun, UserError
from perdure.io.redaction import ADDRESSES
from perdure.ranks import environment, rendezvous
from perdure.run.preemption import StopFlag
from perdure.sweeps.jobs import (
    Job,
    Outcome,
    command,
    finished,
    name_of,
    require_same_job,
    require_unused,
    typed_overrides,
)
from perdure.sweeps.process import JobProcess
from perdure.sweeps.report import REPORT, SweepReport

log = logging.getLogger("perdure")
_POLL_SECONDS = 0.05
"""How often the running jobs are looked at."""


class SweepLauncher(Launcher):
    """Runs the jobs of a batch that are not finished, and reports on all of them."""

    report: SweepReport = REPORT
    """The process-wide one, since Hydra itself makes the launcher, from the configuration alone."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.task_function = task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """One return a job; the value of one that did not finish is None.

        Raises:
            UserError: a job's folder holds another job.
            ExitRun: the sweep is interrupted, and its jobs have saved their state.
        """
        setup_globals()
        configs = {
            initial_job_idx + i: self._config(initial_job_idx + i, overrides)
            for i, overrides in enumerate(job_overrides)
        }
        jobs = [self._job(number, config) for number, config in configs.items()]
        for job in jobs:
            require_same_job(job)
        self.report.announce(jobs, self.config.hydra, self.schedule)
        outcomes = {}
        # The ranks of a distributed sweep must run the same jobs.
        values = rendezvous.from_main("finished", lambda: self._finished(jobs, configs))
        for job, value in zip(jobs, values, strict=True):
            if value is not None:
                outcomes[job.number] = Outcome(0, "", value, finished_before=True)
                self.report.ended(job, outcomes[job.number])
        unfinished = [job for job in jobs if job.number not in outcomes]
        if unfinished:
            outcomes |= self.execute(unfinished, configs)
        return [_returned(job, outcomes[job.number]) for job in jobs]

    @staticmethod
    def _finished(jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> list[float | None]:
        """The results of the jobs that need not run again."""
        found: list[float | None] = []
        for job in jobs:
            resumes = configs[job.number].checkpoint.resume is not None
            if not resumes and not environment.restart_count():
                require_unused(job)
            found.append(finished(job.folder) if resumes else None)
        return found

    @property
    def schedule(self) -> str:
        """How many jobs run at a time, and where, for the sweep's first line."""
        return ", one after another"

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        """Run `jobs` and report on each; returns their outcomes by their numbers."""
        raise NotImplementedError

    def _config(self, number: int, overrides: Sequence[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        ADDRESSES.redact_config(config)
        expand_home(config)
        return config

    def _job(self, number: int, config: DictConfig) -> Job:
        overrides = typed_overrides(config, "task")
        folder = Path(config.hydra.sweep.dir, str(config.hydra.sweep.subdir)).absolute()
        return Job(
            number,
            tuple(overrides),
            name_of(overrides, typed_overrides(self.config, "task")),
            folder,
            tuple(command(self.config, number, self.job_overrides(overrides), folder)),
            Path.cwd(),
        )

    def job_overrides(self, overrides: list[str]) -> list[str]:
        """The overrides for a job's own command line."""
        return overrides


def _returned(job: Job, outcome: Outcome) -> JobReturn:
    # None is not an error, so that no sweeper stops at it; Optuna counts it as a failed trial.
    returned = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    returned.return_value = outcome.value
    return returned


class OneProcess(SweepLauncher):
    """One job after another, in this process: loaded data and imports stay for the next."""

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        outcomes = {}
        for job in jobs:
            self.report.started(job)
            outcomes[job.number] = self._run(configs[job.number])
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
            outcome = outcomes[job.number]
            self.report.ended(job, outcome)
            # The other ranks of a distributed run would wait forever for this one.
            if outcome.status == RESUMABLE or (outcome.status and environment.world_size() > 1):
                raise ExitRun(outcome.reason, outcome.status)
        return outcomes

    def _run(self, config: DictConfig) -> Outcome:
        started = time.monotonic()
        try:
            returned = run_job(
                self.task_function,
                config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self.hydra_context,
            )
        except ExitRun as leaving:
            return Outcome(int(leaving.code or 0), leaving.sentence, None, _seconds_since(started))
        if returned.status is JobStatus.COMPLETED:
            return Outcome(0, "", returned.return_value, _seconds_since(started))
        error: BaseException = returned._return_value
        if environment.world_size() > 1:
            raise error
        log.error("the run ended in an error", exc_info=error)
        return Outcome(1, f"{type(error).__name__}: {error}", None, _seconds_since(started))


def _seconds_since(start: float) -> float:
    return time.monotonic() - start


class Local(SweepLauncher):
    """Each job a process of this machine, several at a time.

    Args:
        n_jobs: how many at a time; None is one a core that this process may use.
        threads: CPU threads of each job that sets none of its own.
        gpus: indices of the GPUs; each job sees one of them. None: every job sees all.
    """

    def __init__(self, n_jobs: int | None, threads: int, gpus: Sequence[int] | None) -> None:
        self.n_jobs = environment.cores() if n_jobs is None else n_jobs
        self.threads, self.gpus = threads, gpus
        if type(self.n_jobs) is not int or self.n_jobs < 1:
            raise UserError(f"hydra.launcher.n_jobs={n_jobs}: must be 1 or more, or null")
        if type(threads) is not int or threads < 1:
            raise UserError(f"hydra.launcher.threads={threads}: must be 1 or more")
        if isinstance(gpus, str | int):
            raise UserError(f"hydra.launcher.gpus={gpus}: must be a list like [0,1], or null")
        self.flag = StopFlag()

    def setup(self, **arguments: Any) -> None:
        super().setup(**arguments)
        self.flag.install()

    @property
    def schedule(self) -> str:
        return f", {self.n_jobs} at a time"

    def job_overrides(self, overrides: list[str]) -> list[str]:
        return with_threads(overrides, self.threads)

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        waiting, free = deque(jobs), deque(range(self.n_jobs))
        running: dict[int, tuple[Job, JobProcess]] = {}
        outcomes: dict[int, Outcome] = {}
        try:
            while (waiting or running) and not self.flag():
                while waiting and free:
                    job, slot = waiting.popleft(), free.popleft()
                    self.report.started(job)
                    running[slot] = (job, JobProcess(job, self._environment(slot)))
                outcomes |= self._gather(running, free)
                self.report.update()
                time.sleep(_POLL_SECONDS)
        finally:
            for _, process in running.values():
                process.request_stop()
            while running:
                self._gather(running, free)
                time.sleep(_POLL_SECONDS)
        if self.flag():
            raise ExitRun(str(self.flag()), RESUMABLE)
        return outcomes

    def _gather(
        self, running: dict[int, tuple[Job, JobProcess]], free: deque[int]
    ) -> dict[int, Outcome]:
        """The outcomes of the jobs that have ended; their slots are free again."""
        ended = {}
        for slot, (job, process) in list(running.items()):
            if (outcome := process.poll()) is not None:
                self.report.ended(job, outcome)
                ended[job.number] = outcome
                free.append(slot)
                del running[slot]
        return ended

    def _environment(self, slot: int) -> dict[str, str]:
        gpus = {"CUDA_VISIBLE_DEVICES": str(self.gpus[slot % len(self.gpus)])} if self.gpus else {}
        return {"OMP_NUM_THREADS": str(self.threads), **gpus}


def with_threads(overrides: list[str], threads: int) -> list[str]:
    """`overrides`, with the number of CPU threads unless they set it."""
    own = any(o.lstrip("+").startswith("threads=") for o in overrides)
    return overrides if own else [f"threads={threads}", *overrides]
