"""Jobs as processes: their end, their reason, their death."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from process import ROOT

from perdure.sweeps.jobs import Job, Outcome
from perdure.sweeps.process import JobProcess, Worker

pytestmark = pytest.mark.process


def job_that(folder: Path, code: str) -> Job:
    return Job(0, (), "", folder / "job", (sys.executable, "-c", code), folder)


def ended(process: JobProcess) -> Outcome:
    deadline = time.monotonic() + 60
    while (outcome := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, "exit status 3"),
        ("raise RuntimeError('no luck')", 1, "RuntimeError: no luck"),
        ("import sys; print('perdure: a mistake'); print('later'); sys.exit(2)", 2, "a mistake"),
        ("import os; os.kill(os.getpid(), 9)", -9, "killed by SIGKILL"),
        ("import os, shutil, sys; print('perdure: gone'); shutil.rmtree('job'); sys.exit(2)", 2,
         "gone"),
    ],
    ids=["good", "silent", "crash", "sentence", "killed", "folder taken away"],
)  # fmt: skip
def test_the_reason_of_an_end(tmp_path: Path, code: str, status: int, reason: str) -> None:
    outcome = ended(JobProcess(job_that(tmp_path, code), {}))
    assert (outcome.status, outcome.reason, outcome.value) == (status, reason, None)


def test_what_a_former_process_wrote_is_no_reason(tmp_path: Path) -> None:
    ended(JobProcess(job_that(tmp_path, "print('perdure: old'); raise SystemExit(2)"), {}))
    outcome = ended(JobProcess(job_that(tmp_path, "raise SystemExit(4)"), {}))
    assert outcome.reason == "exit status 4"
    assert "perdure: old" in (tmp_path / "job" / "console.log").read_text()


def test_the_environment_of_a_job(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.getsid(0) == os.getpid())"
    ended(JobProcess(job_that(tmp_path, code), {"CUDA_VISIBLE_DEVICES": "3"}))
    assert (tmp_path / "job" / "console.log").read_text() == "3 True\n"


def test_a_job_says_its_mistakes_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep's own process has set so that Hydra hands it errors is not the user's wish."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    command = [sys.executable, str(ROOT / "train.py"), "threads=x"]
    outcome = ended(JobProcess(job_that(tmp_path, ""), {}, command))
    assert outcome.status == 2
    assert outcome.reason == "threads: Value 'x' of type 'str' could not be converted to Integer"


PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open("ready", "w").close()
time.sleep(60)
"""


def test_a_worker_that_is_interrupted_stops_its_job(tmp_path: Path) -> None:
    """As submitit does it: its handler runs in the middle of the worker's waiting."""
    worker, submissions = Worker(), []
    job = job_that(tmp_path, PATIENT)

    def requeue(*_: object) -> None:
        if (tmp_path / "ready").exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            submissions.append(worker.checkpoint(job))
            raise SystemExit(144)

    pytest.importorskip("submitit")
    before = [(n, signal.getsignal(n)) for n in (signal.SIGALRM, signal.SIGTERM)]
    signal.signal(signal.SIGALRM, requeue)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(SystemExit):
            worker(job)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
    (submission,) = submissions
    assert (submission.args, submission.kwargs) == ((job,), {"requeued": True})
    assert worker._process is not None
    assert ended(worker._process).status == 75
