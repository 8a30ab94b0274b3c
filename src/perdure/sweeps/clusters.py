"""Jobs that SLURM (through submitit) or Ray starts, each there a process of its own.

The folder of the sweep must be one that the cluster's machines share.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from perdure.errors import RESUMABLE, ExitRun, UserError
from perdure.io.redaction import ADDRESSES
from perdure.run.preemption import StopFlag
from perdure.sweeps.jobs import Job, Outcome
from perdure.sweeps.launchers import SweepLauncher, with_threads
from perdure.sweeps.process import Worker
from perdure.sweeps.report import BOARD

_GLANCE = 0.2
"""Seconds between two looks at the cluster's jobs."""


class Slurm(SweepLauncher):
    """One SLURM array of all jobs; this process waits for it.

    A job that is preempted or out of time saves, is queued again and goes on. Leaving this process
    leaves the array with SLURM.

    Args:
        cluster: slurm, or local for submitit's own processes on this machine.
        folder: where submitit writes.
        max_num_timeout: how many times a job that ran out of time is queued again.
        threads: CPU threads of each job that sets none of its own; None is `cpus_per_task`.
        submit: what submitit's executor is to be told; the names are submitit's.
    """

    def __init__(
        self,
        cluster: str,
        folder: str,
        max_num_timeout: int,
        threads: int | None,
        submit: DictConfig,
    ) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, folder, max_num_timeout
        plain: Any = OmegaConf.to_container(submit, resolve=True)
        self.submit = {key: value for key, value in plain.items() if value is not None}
        self.threads = threads or self.submit.get("cpus_per_task", 1)
        self.flag = StopFlag()

    def typed(self, overrides: list[str]) -> list[str]:
        return with_threads(overrides, self.threads)

    @property
    def at_once(self) -> str:
        where = "as a SLURM array" if self.cluster == "slurm" else "by submitit on this machine"
        return f", {where}"

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        self.flag.install()
        waiting = dict(zip(self._submitted(jobs), jobs, strict=True))
        for handle, job in waiting.items():
            BOARD.submitted(job, handle.job_id)
        outcomes: dict[int, Outcome] = {}
        asked = False
        while waiting:
            if self.flag() and not asked:
                asked = True
                self._stop(list(waiting))
            for handle in [handle for handle in waiting if handle.done()]:
                job = waiting.pop(handle)
                outcomes[job.number] = _result(handle)
                BOARD.ended(job, outcomes[job.number])
            time.sleep(_GLANCE)
        if asked:
            raise ExitRun(str(self.flag()), RESUMABLE)
        return outcomes

    def _submitted(self, jobs: Sequence[Job]) -> list[Any]:
        """What submitit knows each job by.

        Raises:
            UserError: there is no SLURM here, or it or submitit does not take the parameters.
        """
        import submitit

        retries = {f"{self.cluster}_max_num_timeout": self.max_num_timeout}
        try:
            executor = submitit.AutoExecutor(Path(self.folder), cluster=self.cluster, **retries)
            executor.update_parameters(**self.submit)
            # What submitit pickles lies on the shared disk; sbatch passes the environment on.
            with ADDRESSES.exported():
                return list(executor.map_array(Worker(), jobs))
        except (RuntimeError, ValueError, NameError) as error:
            line = " ".join(str(error).split())
            raise UserError(f"hydra/launcher=slurm: {line}") from error

    def _stop(self, unfinished: Sequence[Any]) -> None:
        ids = [handle.job_id for handle in unfinished]
        if self.cluster == "slurm":
            arrays = " ".join(sorted({job_id.partition("_")[0] for job_id in ids}))
            BOARD.rest = f"left with SLURM (scancel {arrays} ends them)"
            raise ExitRun(str(self.flag()), RESUMABLE)
        for job_id in ids:
            os.kill(int(job_id), signal.SIGTERM)


def _result(handle: Any) -> Outcome:
    try:
        outcome: Outcome = handle.result()
    except Exception as error:  # what the job, the machine or SLURM did; all are submitit's to say
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Outcome(1, f"{lines[0] if lines else type(error).__name__} ({handle.paths.stderr})")
    return outcome


class Ray(SweepLauncher):
    """Each job a task of a Ray cluster, or of an instance on this machine.

    Args:
        address: of the cluster; local starts an instance here, and ends it with the sweep.
        num_cpus: cores of a job, which are also its threads unless it sets them.
        num_gpus: GPUs of a job; parts of one are allowed.
        init: further arguments of `ray.init`.
    """

    def __init__(self, address: str, num_cpus: int, num_gpus: float, init: DictConfig) -> None:
        self.resources = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.threads = num_cpus
        plain: Any = OmegaConf.to_container(init, resolve=True)
        self.init = {"address": address, **plain}
        self.flag = StopFlag()

    def typed(self, overrides: list[str]) -> list[str]:
        return with_threads(overrides, self.threads)

    @property
    def at_once(self) -> str:
        return ", by Ray"

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        import ray

        try:
            ray.init(**self.init)
        except (ConnectionError, RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())
            raise UserError(f"hydra.launcher.address={self.init['address']}: {line}") from error
        try:
            return self._wait(ray, jobs)
        finally:
            ray.shutdown()

    def _wait(self, ray: Any, jobs: Sequence[Job]) -> dict[int, Outcome]:
        self.flag.install()
        # A worker that is killed is told of, and not tried again behind the user's back.
        remote = ray.remote(max_retries=0, **self.resources)(_run)
        # As an argument, which stays in memory: Ray writes what it is told of a task's environment
        # into its logs.
        addresses = ADDRESSES.environment()
        waiting = {remote.remote(job, addresses): job for job in jobs}
        outcomes: dict[int, Outcome] = {}
        asked = False
        while waiting:
            if self.flag() and not asked:
                asked = True
                for reference in waiting:
                    ray.cancel(reference)
            ready, _ = ray.wait(list(waiting), timeout=_GLANCE)
            for reference in ready:
                job = waiting.pop(reference)
                outcome = _got(ray, reference)
                # One that was cancelled before its turn has not even a folder.
                if outcome.status != RESUMABLE or job.folder.is_dir():
                    outcomes[job.number] = outcome
                    BOARD.ended(job, outcome)
        if asked:
            raise ExitRun(str(self.flag()), RESUMABLE)
        return outcomes


def _run(job: Job, addresses: Mapping[str, str]) -> Outcome:
    os.environ.update(addresses)
    return Worker()(job)


def _got(ray: Any, reference: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return Outcome(RESUMABLE, "stopped with the sweep")
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        return Outcome(1, lines[0] if lines else type(error).__name__)
    return outcome
