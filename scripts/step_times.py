"""CPU time of a training step of each method, relative to experience replay's.

python scripts/step_times.py                    every method, on seq-mnist
python scripts/step_times.py derpp mir --runs 5
python scripts/step_times.py --docs docs        also writes docs/step-times.csv, which
                                                `perdure reproduce --docs docs` shows in results.md

Each method is run between two runs of ER, in processes of one thread, so that whatever else the
machine does meets all alike; a ratio is the median over the runs. A step is one of the main phase
from the second task on, with its replay, teachers and penalties; what hooks compute between steps
is not in it. `CPU s` is of the whole short run's training, with the other phases and the hooks.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perdure.analysis.tables import markdown_table as table
from perdure.cli.runs import Ended, Job, run_once
from perdure.config.folder import CONF

SHORT = (
    "dataset=seq-mnist", "dataset.iterations=200", "dataset.stop_after=3", "threads=1",
    "recipe=none", "training.evaluate_every_task=3", "tracking.console=off", "device=cpu",
)  # fmt: skip
OWN = {"mer": ("optimizer.momentum=0",), "gdumb": ("model.epochs=3",)}
"""Options without which a method takes long, or does not run."""
COLUMNS = (
    "method",
    "step_us",
    "relative_to_er",
    "forward_passes",
    "backward_passes",
    "cpu_seconds",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", help="by default all of conf/model")
    parser.add_argument("--runs", type=int, default=3, help="of each method, each beside one of ER")
    parser.add_argument("--docs", type=Path, help="where step-times.csv goes")
    options = parser.parse_args(arguments)
    names = options.methods or sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    rows = []
    for name in names:
        row = measured(name, options.runs)
        rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    print(table([COLUMNS, *([str(row[key]) for key in COLUMNS] for row in rows)]))
    if options.docs is not None:
        with (options.docs / "step-times.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 0


def measured(name: str, runs: int) -> dict[str, Any]:
    """A row: medians over so many pairs of runs."""
    ratios, seconds, totals = [], [], []
    last: Ended | None = None
    for _ in range(runs):
        er, last = run("er"), run(name)
        seconds.append(step_seconds(last))
        ratios.append(step_seconds(last) / step_seconds(er))
        totals.append(last.results["cpu_seconds"]["training"])
    assert last is not None
    step = last.results["cost"]["step"]
    return {
        "method": name,
        "step_us": round(1e6 * median(seconds)),
        "relative_to_er": f"{median(ratios):.2f}",
        "forward_passes": step["forward_passes"],
        "backward_passes": step["backward_passes"],
        "cpu_seconds": f"{median(totals):.2f}",
    }


def run(name: str) -> Ended:
    """A short run, which must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        words = (f"model={name}", *SHORT, *OWN.get(name, ()))
        ended = run_once(Job(words, Path(folder, "run")))
    if ended.failure:
        sys.exit(f"{name}: {ended.failure}")
    return ended


def step_seconds(ended: Ended) -> float:
    """CPU seconds of a step of the main phase after the first task; of any, if it has none."""
    phases = [p for p in ended.results["cost"]["phases"] if p["task"] and p["phase"] == "main"]
    phases = phases or [p for p in ended.results["cost"]["phases"] if p["task"]]
    seconds, steps = 0.0, 0
    for phase in phases:
        seconds += phase["cpu_seconds"]
        steps += phase["steps"]
    return seconds / max(1, steps)


if __name__ == "__main__":
    sys.exit(main())
