"""Launchers for clusters: SLURM (sbatch job arrays, through submitit) and Ray.

Each job is a process of its own there. The cluster's machines must share the sweep's folder.
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

_POLL_SECONDS = 0.2
"""How often the cluster's jobs are looked at."""


class Slurm(SweepLauncher):
    """One SLURM array of all jobs; this process waits for it.

    A job that is preempted or out of time saves, is requeued and resumes. When this process ends
    early, the array stays with SLURM.

    Args:
        cluster: slurm, or local for submitit's own processes on this machine.
        folder: where submitit writes.
        max_num_timeout: how many times a job that ran out of time is queued again.
        threads: CPU threads of each job that sets none of its own; None is `cpus_per_task`.
        submit: parameters of submitit's executor, under its own names.
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

    def job_overrides(self, overrides: list[str]) -> list[str]:
        return with_threads(overrides, self.threads)

    @property
    def schedule(self) -> str:
        where = "as a SLURM array" if self.cluster == "slurm" else "by submitit on this machine"
        return f", {where}"

    def execute(self, jobs: Sequence[Job], configs: Mapping[int, DictConfig]) -> dict[int, Outcome]:
        self.flag.install()
        waiting = dict(zip(self._submitted(jobs), jobs, strict=True))
        for handle, job in waiting.items():
            self.report.submitted(job, handle.job_id)
        outcomes: dict[int, Outcome] = {}
        stopping = False
        while waiting:
            if self.flag() and not stopping:
                stopping = True
                self._stop(list(waiting))
            for handle in [handle for handle in waiting if handle.done()]:
                job = waiting.pop(handle)
                outcomes[job.number] = _submitit_outcome(handle)
                self.report.ended(job, outcomes[job.number])
            self.report.update()
            time.sleep(_POLL_SECONDS)
        if stopping:
            raise ExitRun(str(self.flag()), RESUMABLE)
        return outcomes

    def _submitted(self, jobs: Sequence[Job]) -> list[Any]:
        """submitit's handle of each job.

        Raises:
            UserError: there is no SLURM here, or it or submitit refuses the parameters.
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
            self.report.rest = f"left with SLURM (scancel {arrays} ends them)"
            raise ExitRun(str(self.flag()), RESUMABLE)
        for job_id in ids:
            os.kill(int(job_id), signal.SIGTERM)


def _submitit_outcome(handle: Any) -> Outcome:
    try:
        outcome: Outcome = handle.result()
    except Exception as error:  # of the job, the machine or SLURM; submitit raises them all
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

    def job_overrides(self, overrides: list[str]) -> list[str]:
        return with_threads(overrides, self.threads)

    @property
    def schedule(self) -> str:
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
        # A worker that is killed is reported, and not restarted without the user's knowledge.
        remote = ray.remote(max_retries=0, **self.resources)(_run)
        # As an argument, which stays in memory: Ray writes a task's environment into its logs.
        addresses = ADDRESSES.environment()
        waiting = {remote.remote(job, addresses): job for job in jobs}
        outcomes: dict[int, Outcome] = {}
        stopping = False
        while waiting:
            if self.flag() and not stopping:
                stopping = True
                for reference in waiting:
                    ray.cancel(reference)
            ready, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
            for reference in ready:
                job = waiting.pop(reference)
                outcome = _ray_outcome(ray, reference)
                # One that was cancelled before its turn has not even a folder.
                if outcome.status != RESUMABLE or job.folder.is_dir():
                    outcomes[job.number] = outcome
                    self.report.ended(job, outcome)
            self.report.update()
        if stopping:
            raise ExitRun(str(self.flag()), RESUMABLE)
        return outcomes


def _run(job: Job, addresses: Mapping[str, str]) -> Outcome:
    os.environ.update(addresses)
    return Worker()(job)


def _ray_outcome(ray: Any, reference: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return Outcome(RESUMABLE, "stopped with the sweep")
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        return Outcome(1, lines[0] if lines else type(error).__name__)
    return outcome
