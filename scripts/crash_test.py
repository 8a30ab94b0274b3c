"""Crash test: kill runs at random instants, resume them, and compare the ends bit by bit.

python scripts/crash_test.py [--kills 50] [--methods er derpp …] [--seed 0] [--jobs 2]

For each method an undisturbed run is made, and one that is killed (SIGKILL) again and again, partly
while it starts, partly while it trains and writes, and each time started anew with
`checkpoint.resume=auto`. Exit status 1 if any weight, buffer row, result or metric differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries
from perdure.io.atomic import is_temporary

TRAIN = Path(__file__).parents[1] / "train.py"
METHODS = ("er", "derpp", "ewc-online", "si", "agem", "lwf")
SETTING = (
    "dataset.iterations=60",
    "dataset.batch_size=10",
    "buffer.size=100",
    "training.log_every=7",
    "checkpoint.save=true",
    "checkpoint.every=3 steps",
    "checkpoint.resume=auto",
    "tracking.console=plain",
)
WITHOUT = {
    "clock", "seconds", "cpu_seconds", "resumes", "timestamp", "at", "processes",
    "metrics_sha256",  # of lines that hold clocks
}  # fmt: skip


def command(method: str, folder: Path) -> list[str]:
    return [sys.executable, str(TRAIN), f"model={method}", f"hydra.run.dir={folder}", *SETTING]


def start(method: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = folder.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(
            command(method, folder), env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def finish(method: str, folder: Path) -> None:
    """Run to the end; an error is shown."""
    if start(method, folder).wait() != 0:
        raise SystemExit(folder.with_suffix(".log").read_text())


def committed(folder: Path) -> int:
    return max((e.order[0] for e in entries(folder / "checkpoints")), default=0)


def kill_once(method: str, folder: Path, chance: random.Random) -> dict[str, Any]:
    """Start the run, kill it at a random instant, and return where that was."""
    before = committed(folder)
    process = start(method, folder)
    began = time.monotonic()
    at_start = chance.random() < 0.25
    deadline = began + chance.uniform(0, 3) if at_start else float("inf")
    delay = chance.uniform(0, 0.7)
    while process.poll() is None and time.monotonic() < deadline:
        if deadline == float("inf") and committed(folder) > before:
            deadline = time.monotonic() + delay
        time.sleep(0.005)
    killed = process.poll() is None
    process.kill()
    process.wait()
    checkpoints = folder / "checkpoints"
    files = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
    torn = [p for p in files if is_temporary(p)] + [
        p for p in files if p.suffix in (".pt", ".pth") and not p.is_symlink()
        and not sidecars.path_of(p).is_file()
    ]  # fmt: skip
    newest = [e for e in entries(checkpoints) if e.full][-1:]
    return {
        "killed": killed,
        "at_start": at_start,
        "in_a_write": bool(torn),
        "mid_epoch": bool(newest) and newest[0].order[3] > 0,
        "global_step": newest[0].order[0] if newest else 0,
    }


def crash_test(method: str, kills: int, seed: int, root: Path) -> dict[str, Any]:
    """One undisturbed and one disturbed run of `method`, compared."""
    chance = random.Random(f"{seed}/{method}")
    undisturbed, killed_run = root / f"{method}-undisturbed", root / f"{method}-killed"
    finish(method, undisturbed)
    happened: list[dict[str, Any]] = []
    for _ in range(kills):
        happened.append(kill_once(method, killed_run, chance))
        if not happened[-1]["killed"]:
            break
    finish(method, killed_run)
    return {"method": method, "kills": happened, "differences": compare(undisturbed, killed_run)}


def compare(run: Path, other: Path) -> list[str]:
    """Every difference between the ends of two runs but for clock fields."""
    found: list[str] = []
    of_tasks = [
        {path.stem.rpartition("_")[2]: path for path in (folder / "checkpoints").glob("*_*.pt")}
        for folder in (run, other)
    ]
    for task in sorted(of_tasks[0].keys() | of_tasks[1].keys()):
        if any(task not in paths for paths in of_tasks):
            found.append(f"task {task}: the checkpoint is in one only")
        else:
            a, b = (read(paths[task]) for paths in of_tasks)
            found += differences(a, b, f"task {task}")
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    ]
    found += differences(rows[0], rows[1], "metrics.jsonl")
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, other)]
    return found + differences(results[0], results[1], "results.json")


def differences(a: Any, b: Any, where: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in {**a, **b} if k not in WITHOUT | {"args", "overrides", "metrics_bytes"}]
        missing = [f"{where}: {k} is in one only" for k in keys if (k in a) != (k in b)]
        both = [k for k in keys if k in a and k in b]
        return missing + [d for k in both for d in differences(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{where}[{i}]")
        ]
    same = (
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    )
    return [] if same else [where]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=54, help="in all, spread over the methods")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the record of every kill")
    options = parser.parse_args()
    each = -(-options.kills // len(options.methods))
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(options.jobs) as pool:
        done = list(
            pool.map(lambda m: crash_test(m, each, options.seed, Path(root)), options.methods)
        )
    if options.json:
        print(json.dumps(done))
    for outcome in done:
        kills = [k for k in outcome["kills"] if k["killed"]]
        counts = ", ".join(
            f"{sum(k[key] for k in kills)} {label}"
            for key, label in (
                ("at_start", "at start-up"),
                ("mid_epoch", "resumed mid-epoch"),
                ("in_a_write", "in a write"),
            )
        )
        ends = (
            "bit-identical"
            if not outcome["differences"]
            else f"DIFFERS: {outcome['differences'][:5]}"
        )
        print(f"{outcome['method']:12} {len(kills)} kills ({counts}): {ends}", file=sys.stderr)
    return int(any(outcome["differences"] for outcome in done))


if __name__ == "__main__":
    sys.exit(main())
