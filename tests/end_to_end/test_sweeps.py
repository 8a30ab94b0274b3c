"""Sweeps by the real command: every launcher, failures, signals, and resumes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import ranks_of
import yaml
from process import ROOT, command, environment, train_in

RARE = pytest.mark.exhaustive

TINY = ("dataset.stop_after=1", "dataset.iterations=20", "tracking.console=off")
LONG = (
    "dataset.stop_after=1", "dataset.iterations=400", "checkpoint.every=20 steps",
    "training.log_every=20", "tracking.console=off",
)  # fmt: skip
SWEEP = ("-m", "hydra.sweep.dir=sweep")
AGAIN = (*SWEEP, "checkpoint.resume=auto")
WRONG = "optimizer.lr=-1: must be 0 or more"


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def disturb(root: Path, act: Callable[[int], None], *arguments: str) -> tuple[int, str, str]:
    """Start a sweep and `act` with its process id when job 0 has a checkpoint within its task."""
    sweep = subprocess.Popen(
        command(*SWEEP, *arguments), cwd=root, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(root.glob("sweep/0/checkpoints/step-*_full.pth.json")):
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    act(sweep.pid)
    out, errors = sweep.communicate(timeout=120)
    return sweep.returncode, out, errors


def processes(part: str) -> list[int]:
    """Ids of the processes with `part` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if part in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def holder(folder: Path) -> int:
    """The process that writes to the run folder."""
    return int(json.loads((folder / ".lock").read_text())["pid"])


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which an undisturbed sweep over seeds 0 and 1 was started."""
    root = tmp_path_factory.mktemp("calm")
    done = train_in(root, *SWEEP, "seed=0,1", *LONG)
    assert done.returncode == 0, done.stderr
    return root


def progress_of(root: Path) -> str:
    """What the summary in the sweep's folder says of its jobs."""
    return (root / "sweep" / "summary.md").read_text().splitlines()[2]


def matrix_of(root: Path, job: str) -> Any:
    return results_of(root / "sweep" / job)["accuracy_matrix"]


# --- one process and many -------------------------------------------------------------------------


def test_jobs_run_in_processes_and_failures_are_reported(tmp_path: Path) -> None:
    done = train_in(
        tmp_path, "-m", "hydra/launcher=local", "model=sgd", "buffer.size=200",
        "optimizer.lr=-1,1e30,0.1", "hydra.sweep.subdir=${hydra.job.num}-${seed}", *TINY,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("perdure: 2 of 3 jobs did not finish; python ")
    assert done.stderr.count("\n") == 1
    (sweep,) = (tmp_path / "outputs").iterdir()
    first, *jobs, total, _, _ = done.stdout.splitlines()
    assert first.startswith(f"sweep in outputs/{sweep.name}: 3 jobs, ")
    assert jobs[0] == "job 0 started: optimizer.lr=-1"
    progress = [line for line in jobs if " of 3 jobs done, " in line]
    assert len(progress) == 2  # the last job is followed by the total
    assert len(jobs) == 6 + len(progress)
    assert total == f"sweep in outputs/{sweep.name}: 1 finished, 2 failed"
    assert f"  failed: job 0, optimizer.lr=-1: {WRONG}\n" in done.stdout
    assert "  failed: job 1, optimizer.lr=1e+30: training diverged: " in done.stdout
    assert sorted(path.name for path in sweep.iterdir()) == [
        "1-0", "2-0", "figures", "multirun.yaml", "report.html", "summary.csv", "summary.md",
        "summary.tex",
    ]  # fmt: skip
    summary = (sweep / "summary.md").read_text()
    assert "1 of 3 runs finished, 2 failed." in summary
    accuracy = results_of(sweep / "2-0")["average_accuracy"]["class_il"]
    assert f" {100 * accuracy:.2f} " in summary
    results = results_of(sweep / "2-0")
    assert (results["status"], results["timestamp"]) == ("finished", sweep.name)
    assert results["environment"]["threads"] == 1
    assert "sgd keeps no buffer" not in done.stdout
    hydra = yaml.safe_load((sweep / "2-0" / ".hydra" / "hydra.yaml").read_text())["hydra"]
    assert hydra["job"]["num"] == 2
    assert hydra["sweep"]["dir"] == f"outputs/{sweep.name}"


CRASH = "class Source:\n    def load(self, root):\n        raise RuntimeError('no such luck')\n"


def test_failures_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CRASH)
    sources = "dataset.source._target_=mine.Source,perdure.datasets.sources.MNIST"
    done = train_in(
        tmp_path, *SWEEP, sources, "optimizer.lr=-1,0.1", *TINY, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.returncode == 1
    assert "sweep in sweep: 1 finished, 3 failed" in done.stdout
    assert done.stdout.count(": RuntimeError: no such luck (see ") == 2
    assert done.stdout.count(f": {WRONG}\n") == 2
    assert done.stderr.count("\n") == 1
    assert 'raise RuntimeError("no such luck")' not in done.stdout + done.stderr
    assert "Traceback" in (tmp_path / "sweep" / "0" / "train.log").read_text()
    assert results_of(tmp_path / "sweep" / "3")["status"] == "finished"


def test_a_crash_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CRASH)
    arguments = ("hydra/launcher=local", "dataset.source._target_=mine.Source", *TINY)
    done = train_in(tmp_path, *SWEEP, *arguments, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert ": RuntimeError: no such luck (see " in done.stdout
    assert "Traceback" in (tmp_path / "sweep" / "0" / "console.log").read_text()


def test_mistakes_of_the_user_alone_end_with_2(tmp_path: Path) -> None:
    done = train_in(tmp_path, "-m", "model=er,er-ace", "buffer=none", *TINY)
    assert done.returncode == 2
    assert "0 finished, 2 failed" in done.stdout
    assert "model=er-ace with buffer=none" in done.stdout


def test_a_killed_job_is_reported_and_resumes(tmp_path: Path, calm: Path) -> None:
    arguments = ("hydra/launcher=local", "hydra.launcher.n_jobs=2", "seed=0,1", *LONG)
    job = tmp_path / "sweep" / "0"
    status, out, _ = disturb(tmp_path, lambda _: os.kill(holder(job), signal.SIGKILL), *arguments)
    assert status == 1
    assert "1 finished, 1 failed" in out
    assert "  failed: job 0, seed=0: killed by SIGKILL" in out
    assert progress_of(tmp_path) == "1 of 2 runs finished, 1 failed."
    done = train_in(tmp_path, *AGAIN, *arguments, "training.log_every=10")
    assert done.returncode == 0, done.stderr
    assert "job 1 was finished before, average accuracy " in done.stdout
    assert "job 1 started" not in done.stdout
    assert results_of(job)["resumes"]
    assert progress_of(tmp_path) == "2 of 2 runs finished."
    for name in "01":
        assert matrix_of(tmp_path, name) == matrix_of(calm, name)


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        pytest.param("local", signal.SIGTERM, id="local-term", marks=RARE),
        pytest.param("one_process", signal.SIGINT, id="one_process-int"),
    ],
)
def test_a_signal_ends_the_sweep_with_75_and_it_resumes(
    tmp_path: Path, calm: Path, launcher: str, number: signal.Signals
) -> None:
    one = ["hydra.launcher.n_jobs=1"] if launcher == "local" else []
    arguments = (f"hydra/launcher={launcher}", *one, "seed=0,1", *LONG)
    status, out, errors = disturb(tmp_path, lambda pid: os.kill(pid, number), *arguments)
    assert status == 75
    assert "0 finished, 1 interrupted, 1 not started" in out
    assert "checkpoint.resume=auto hydra.sweep.dir=sweep runs what is missing" in errors
    status_file = tmp_path / "sweep" / "0" / "status.json"
    assert json.loads(status_file.read_text())["status"] == "resumable"
    assert progress_of(tmp_path) == "0 of 2 runs finished, 1 interrupted, 1 not started."
    done = train_in(tmp_path, *AGAIN, *arguments)
    assert done.returncode == 0, done.stderr
    for name in "01":
        assert matrix_of(tmp_path, name) == matrix_of(calm, name)


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is reported on Linux only")
def test_jobs_do_not_outlive_a_killed_sweep(tmp_path: Path) -> None:
    arguments = ("hydra/launcher=local", "seed=0", *LONG)
    status, _, _ = disturb(tmp_path, lambda pid: os.kill(pid, signal.SIGKILL), *arguments)
    assert status == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while not (path := tmp_path / "sweep" / "0" / "status.json").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert json.loads(path.read_text())["status"] == "resumable"


def test_another_sweep_in_the_folder_is_refused(calm: Path) -> None:
    before = (calm / "sweep" / "0" / "results.json").read_text()
    for launcher in ("one_process", "local"):
        done = train_in(calm, *AGAIN, f"hydra/launcher={launcher}", "seed=1,2", *LONG)
        assert done.returncode == 2
        assert "holds job 0 with seed=0, which would now have seed=1; type the" in done.stderr
    assert (calm / "sweep" / "0" / "results.json").read_text() == before


# --- searches -------------------------------------------------------------------------------------


def test_a_search_maximizes_and_continues_after_failures(tmp_path: Path) -> None:
    arguments = ("search=derpp-seq-mnist", "hydra.sweep.dir=sweep", *TINY)
    first = train_in(
        tmp_path, "-m", *arguments, "hydra.sweeper.n_trials=2",
        "optimizer.lr=choice(1e30,0.03)", "hydra.sweeper.sampler.seed=1",
    )  # fmt: skip
    second = train_in(
        tmp_path, "-m", *arguments, "hydra.sweeper.n_trials=3",
        "optimizer.lr=choice(1e30,0.03)", "hydra.sweeper.sampler.seed=1",
        "checkpoint.resume=auto",
    )  # fmt: skip
    assert "search=" not in first.stdout
    assert "optimizer.lr=" in first.stdout
    assert first.stdout.count("started") == 2
    assert second.stdout.count("was finished before") == 1
    assert "sweep in sweep: 2 finished, 1 failed" in second.stdout
    assert (first.returncode, second.returncode) == (1, 1)
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    jobs = [results_of(path) for path in (tmp_path / "sweep").glob("[0-9]*")]
    values = [r["average_accuracy"]["class_il"] for r in jobs if r["status"] == "finished"]
    assert best["best_value"] == max(values)
    assert {r["split"] for r in jobs} == {"validation"}
    assert "Traceback" not in first.stderr + second.stderr


def test_a_stored_search_continues_though_no_trial_is_good(tmp_path: Path) -> None:
    arguments = (
        "hydra/sweeper=optuna", "hydra.sweeper.storage=sqlite:///s.db",
        "hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=2", "buffer=choice(none)", *TINY,
    )  # fmt: skip
    for _ in range(2):
        done = train_in(tmp_path, "-m", *arguments)
        assert done.returncode == 2
        assert "0 finished, 2 failed" in done.stdout
        assert "Traceback" not in done.stderr
    with sqlite3.connect(tmp_path / "s.db") as database:
        assert database.execute("SELECT state FROM trials").fetchall() == [("FAIL",)] * 4
    done = train_in(tmp_path, *AGAIN, *arguments)
    assert done.returncode == 2
    assert "continues with new trials, and so in a folder of its own" in done.stderr


# --- clusters -------------------------------------------------------------------------------------


def test_a_preempted_job_saves_is_queued_again_and_resumes(tmp_path: Path, calm: Path) -> None:
    def preempt(_: int) -> None:
        for pid in processes(f"submitit.core._submit\0{tmp_path}"):
            os.kill(pid, signal.SIGUSR2)

    arguments = ("hydra/launcher=slurm_local", "optimizer.lr=0.03,-1", *LONG)
    status, out, _ = disturb(tmp_path, preempt, *arguments)
    assert status == 2
    assert "1 finished, 1 failed" in out
    assert f"  failed: job 1, optimizer.lr=-1: {WRONG}\n" in out
    console = (tmp_path / "sweep" / "0" / "console.log").read_text()
    assert "perdure: stopped by SIGTERM" in console
    log = "".join(p.read_text() for p in (tmp_path / "sweep" / ".submitit").glob("*/*_log.*"))
    assert "Requeued job" in log
    assert matrix_of(tmp_path, "0") == matrix_of(calm, "0")


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (it is heavy)")
def test_ray_runs_jobs_and_reports_failures(tmp_path: Path) -> None:
    done = train_in(tmp_path, *SWEEP, "hydra/launcher=ray", "optimizer.lr=-1,0.1", *TINY)
    assert done.returncode == 2
    assert f"  failed: job 0, optimizer.lr=-1: {WRONG}\n" in done.stdout
    assert results_of(tmp_path / "sweep" / "1")["status"] == "finished"


SBATCH = r"""#!{python}
import re, subprocess, sys
script = open(sys.argv[-1]).read()
open("sbatch.txt", "w").write(script)
first, last = re.search(r"--array=(\d+)-(\d+)", script).groups()
command = script.strip().splitlines()[-1].partition(" -u -m ")[2]
for task in range(int(first), int(last) + 1):
    env = dict(SLURM_JOB_ID=str(8 + task), SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task))
    subprocess.Popen(["{python}", "-u", "-m", *command.split()], env=dict({env!r}, **env),
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
for i in 0 1; do
  if [ -f sweep/.submitit/7_$i/7_${i}_0_result.pkl ]; then s=COMPLETED; else s=RUNNING; fi
  echo "7_$i|$s|here"
done
"""


def test_slurm_is_given_one_array_of_jobs(tmp_path: Path) -> None:
    """SLURM itself cannot run here: its commands are stood in for by ones that start the jobs."""
    tools = tmp_path / "bin"
    tools.mkdir()
    env = {**environment(), "SUBMITIT_EXECUTOR": "slurm"}
    texts = {
        "sbatch": SBATCH.format(python=sys.executable, env=env),
        "sacct": SACCT,
        "srun": "#!/bin/sh\n",
    }
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    done = train_in(
        tmp_path, *SWEEP, "hydra/launcher=slurm", "hydra.launcher.submit.slurm_partition=gpu",
        "seed=0,1", *TINY, env={"PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "job 1 submitted as 7_1: seed=1" in done.stdout
    script = (tmp_path / "sbatch.txt").read_text()
    for line in ("--partition=gpu", "--time=240", "--signal=USR2@120", "--array=0-1%2",
                 "--gpus-per-node=1", "--mem=16GB", "--cpus-per-task=4"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script, script
    assert results_of(tmp_path / "sweep" / "1")["seed"] == 1


# --- what cannot work -----------------------------------------------------------------------------

MISSING = [
    ("hydra/launcher=slurm", "submitit", "slurm"),
    ("hydra/launcher=slurm_local", "submitit", "slurm"),
    ("hydra/launcher=ray", "ray", "ray"),
    ("hydra/sweeper=optuna", "hydra_plugins.hydra_optuna_sweeper", "optuna"),
    ("search=derpp-seq-mnist", "hydra_plugins.hydra_optuna_sweeper", "optuna"),
]


@pytest.mark.parametrize(("choice", "package", "extra"), MISSING, ids=[m[0] for m in MISSING])
def test_a_package_that_is_missing(tmp_path: Path, choice: str, package: str, extra: str) -> None:
    hide = (
        "import sys, importlib.abc, runpy\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == '{package}' or name.startswith('{package}.'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import pkgutil\n"
        "whole = pkgutil.walk_packages\n"
        "pkgutil.walk_packages = lambda path=None, prefix='', onerror=None: (\n"
        f"    m for m in whole(path, prefix, onerror) if not m[1].startswith('{package}'))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = sys.argv[1:]\n{hide}",
         str(ROOT / "train.py"), "-m", choice, "seed=0,1"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "needs a package that is not installed: pip install " in done.stderr
    assert f"pip install 'perdure[{extra}]'" in done.stderr
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("hydra/sweeper=optuna", "each would try other values"),
        ("hydra/launcher=local", "each would start every job"),
    ],
    ids=["optuna", "local"],
)
def test_several_ranks_are_refused(tmp_path: Path, choice: str, sentence: str) -> None:
    assert ranks_of.go(tmp_path, 2, "-m", choice, "seed=0,1") != 0
    (refusal,) = ranks_of.sentences(tmp_path)
    assert sentence in refusal
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: must be 1 or more, or null"),
        ("hydra.launcher.njobs=2", "hydra.launcher.njobs: there is no such key"),
        ("hydra.launcher.threads=x", "hydra.launcher.threads=x: must be 1 or more"),
        ("hydra.launcher.gpus=0", "hydra.launcher.gpus=0: must be a list like [0,1], or null"),
    ],
    ids=["n_jobs=0", "njobs", "threads=x", "gpus=0"],
)
def test_wrong_options_of_a_launcher(tmp_path: Path, override: str, sentence: str) -> None:
    done = train_in(tmp_path, "-m", "hydra/launcher=local", override, "seed=0,1", *TINY)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
