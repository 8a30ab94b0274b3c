"""One job as a subprocess: its output goes to `console.log`, its exit status to the sweep.

A run in its own process cannot crash the others, and it is stopped, resumed and reported like any
other run of `perdure train`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.config.overrides import parse
from perdure.io.redaction import ADDRESSES
from perdure.io.run_files import CONSOLE, RunFiles
from perdure.run.identity import is_used
from perdure.run.preemption import PARENT
from perdure.sweeps.jobs import Job, Outcome, finished

_TAIL = 20_000


class JobProcess:
    """A job that has been started.

    Args:
        job: what to run.
        extra: environment variables for it.
        command: what to run instead of the job's own command.
    """

    def __init__(
        self, job: Job, extra: Mapping[str, str], command: Sequence[str] | None = None
    ) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        self._folder = job.folder
        # Read through the open file: a run that is refused removes its folder again.
        self._console = open(job.folder / CONSOLE, "ab+")  # noqa: SIM115
        self._start = self._console.seek(0, os.SEEK_END)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            list(command or job.command),
            cwd=job.cwd,
            env={**_environment(), **ADDRESSES.environment(), **extra, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
            # Ctrl-C at the terminal reaches the sweep alone, which passes it on once.
            start_new_session=True,
        )

    def poll(self) -> Outcome | None:
        """How the job ended, or None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        seconds = time.monotonic() - self._started
        if status == 0:
            return Outcome(0, "", finished(self._folder), seconds)
        return Outcome(status, self._reason(status), None, seconds)

    def request_stop(self) -> None:
        """Send SIGTERM: the run finishes the current step, saves and exits."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def wait_for_end(self) -> None:
        """Return when it has ended; may be called in a signal handler, unlike `poll`."""
        try:
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # `poll` has collected it already

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            try:
                os.kill(self._process.pid, number)
            except ProcessLookupError:
                return

    def _reason(self, status: int) -> str:
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        end = self._console.seek(0, os.SEEK_END)
        self._console.seek(max(self._start, end - _TAIL))
        lines = self._console.read().decode(errors="replace").strip().splitlines()
        sentences = [line for line in lines if line.startswith("perdure: ")]
        if sentences:
            return sentences[-1].removeprefix("perdure: ")
        return (lines or [""])[-1].strip() or f"exit status {status}"


class Worker:
    """Runs one job to its end, wherever a cluster's scheduler has put this process."""

    def __init__(self) -> None:
        self._process: JobProcess | None = None

    def __call__(self, job: Job, requeued: bool = False) -> Outcome:
        """Run `job`; one that was requeued resumes from its newest checkpoint."""
        ADDRESSES.receive()
        requeued = requeued or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        command = resuming_command(job) if requeued else job.command
        process = self._process = JobProcess(job, {}, command)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: process.request_stop())
        try:
            while (outcome := process.poll()) is None:
                time.sleep(0.1)
        except BaseException:
            process.request_stop()
            process.wait_for_end()
            raise
        return outcome

    def checkpoint(self, job: Job, requeued: bool = False) -> Any:
        """Save, and say how to resume: submitit calls this near the time limit or on preemption."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.request_stop()
            self._process.wait_for_end()
        return DelayedSubmission(Worker(), job, requeued=True)


def _environment() -> dict[str, str]:
    """This process's, without what `cli.main` has set for its own Hydra: in a job too, a user's
    mistake is one sentence and no traceback."""
    return {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}


def resuming_command(job: Job) -> list[str]:
    """The job's command; it resumes if the job has begun, from a checkpoint if there is one."""
    if not is_used(job.folder):
        return list(job.command)
    has_one = any(sidecars.checkpoints_in(RunFiles(job.folder).checkpoints))
    replaced = ("checkpoint.resume", *(["checkpoint.load"] if has_one else []))
    return [*(a for a in job.command if parse(a).key not in replaced), "checkpoint.resume=auto"]
