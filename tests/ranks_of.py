"""The real program on several processes, started by the real torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from process import ROOT, environment

from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries

SHORT = (
    "model=derpp", "buffer.size=40", "dataset.iterations=60", "dataset.stop_after=2",
    "training.shards=4", "training.log_every=10", "checkpoint.save=true",
    "checkpoint.every=10 steps", "optimizer.momentum=0.9", "optimizer.lr=0.02",
    "evaluation.probe_every=20",
)  # fmt: skip
LONG = (*SHORT[:2], "dataset.iterations=4000", *SHORT[3:])
WITHOUT = {"clock", "seconds", "cpu_seconds", "resumes", "timestamp", "environment", "recorders"}


def torchrun(n: int, *options: str, script: Path = ROOT / "train.py") -> list[str]:
    """The command that starts `script` on `n` ranks of this machine, up to its arguments."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*start, f"--nproc-per-node={n}", *options, str(script)]


def start(folder: Path, command: list[str], *arguments: str) -> subprocess.Popen[str]:
    """Start a command; what it shows goes to files, so that no pipe outlives a killed launcher."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env={**environment(), "PYTHONPATH": path},
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[str], seconds: float = 180) -> int:
    """The exit status; a process that hangs is ended with all that it started."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def go(folder: Path, n: int, *arguments: str, options: tuple[str, ...] = ()) -> int:
    """Run `train.py` on `n` ranks, to its end."""
    return finish(start(folder, torchrun(n, *options), *arguments))


def sentences(folder: Path) -> list[str]:
    """What the program itself wrote on standard error."""
    lines = (folder / "stderr").read_text().splitlines()
    return [line for line in lines if line.startswith("perdure: ")]


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def workers(launcher: int) -> dict[int, int]:
    """rank → process id of what `torchrun` with this process id has started."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (path / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == launcher:
            facts = dict(v.split(b"=", 1) for v in variables if b"=" in v)
            found[int(facts.get(b"RANK", b"-1"))] = int(path.name)
    return found


def saved(run: Path) -> int:
    """The newest global step that a checkpoint in `run` holds."""
    return max((entry.order[0] for entry in entries(run / "checkpoints")), default=0)


def end_of(run: Path, task: int = 1) -> Any:
    """All that a run's last checkpoint holds and that depends neither on time nor on machines."""
    (path,) = (run / "checkpoints").glob(f"*_{task}.pt")
    state = plain(read(path))
    return clean({k: v for k, v in state.items() if k not in ("versions", "overrides", "args")})


def clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items() if k not in WITHOUT}
    return [clean(v) for v in value] if isinstance(value, list) else value


def rows_of(run: Path) -> Any:
    """metrics.jsonl but for its clocks."""
    return [clean(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def status_of(run: Path) -> Any:
    return json.loads((run / "status.json").read_text())
