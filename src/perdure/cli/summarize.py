"""A sweep's accuracies: mean ± standard deviation over seeds, one row a setting.

    perdure summarize outputs/20261122-081146
    perdure summarize outputs/my-sweep --over seed model.alpha

Jobs that differ only in `seed` (or in what --over names) make a row, called by the other overrides
that vary. Prints a Markdown table in percent, writes summary.csv with fractions into the folder,
and names the jobs that have not finished. Exit status 1: there are such jobs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from perdure.cli.processes import table
from perdure.io.run_files import HYDRA, OVERRIDES, RunFiles
from perdure.sweeps.jobs import decides_result
from perdure.tracking.formatting import byte_size, duration, operations

METRICS = ("average_accuracy", "forgetting")
BYTES, FLOPS, SECONDS = "bytes", "flops", "cpu_seconds"
"""What a run holds at its end, computed in training steps, and took of the processor."""
_UNITS: dict[str, Callable[[Any], str]] = {BYTES: byte_size, FLOPS: operations, SECONDS: duration}


@dataclass(frozen=True)
class Run:
    """One job: its overrides, how it ended, and its metrics as fractions."""

    folder: Path
    overrides: dict[str, str]
    status: str
    metrics: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Summarize the folder that `arguments` name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure summarize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--over", nargs="+", default=["seed"], metavar="KEY", help="averaged over")
    options = parser.parse_args(arguments)
    runs = sorted(read(options.folder), key=lambda run: _order(run.folder))
    if not runs:
        print(f"{options.folder}: there are no jobs of a sweep", file=sys.stderr)
        return 2
    rows = summary([run for run in runs if run.status == "finished"], options.over)
    if rows:
        print(report(rows))
        write_csv(options.folder / "summary.csv", rows)
    unfinished = [run for run in runs if run.status != "finished"]
    for run in unfinished:
        print(f"{run.folder}: {run.status}")
    return 1 if unfinished else 0


def read(sweep: Path) -> Iterator[Run]:
    """The jobs in `sweep`: folders, at any depth, that hold a run's overrides."""
    for path in sweep.rglob(f"{HYDRA}/{OVERRIDES}"):
        folder = path.parents[1]
        typed = [str(o).lstrip("+~").partition("=") for o in yaml.safe_load(path.read_text()) or []]
        overrides = {key: value for key, _, value in typed if decides_result(key)}
        results = RunFiles(folder).results
        content: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
        status = str(content.get("status", "not started"))
        yield Run(folder, overrides, status, _metrics(content) if status == "finished" else {})


def _metrics(results: dict[str, Any]) -> dict[str, float]:
    found = {
        f"{metric}.{scenario}": value
        for metric in METRICS
        for scenario, value in (results.get(metric) or {}).items()
        if value is not None
    }
    cost = results.get("cost")
    if cost:
        found |= {BYTES: cost["bytes"]["total"], FLOPS: cost["flops"]}
    spent = (results.get("cpu_seconds") or {}).get("total")
    return found if spent is None else {**found, SECONDS: spent}


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 0, str(folder))


def summary(runs: Sequence[Run], over: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Setting, by its name → metric → its values, one a run."""
    keys = [key for run in runs for key in run.overrides]
    varied = {k for k in keys if len({run.overrides.get(k) for run in runs}) > 1} - set(over)
    rows: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        setting = " ".join(f"{k}={v}" for k, v in run.overrides.items() if k in varied)
        row = rows.setdefault(setting or "all", {})
        for metric, value in run.metrics.items():
            row.setdefault(metric, []).append(value)
    return rows


def report(rows: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table: accuracies in percent, mean ± sample standard deviation; mean costs."""
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    lines = [["setting", "runs", *metrics]]
    for setting, row in rows.items():
        n = max(map(len, row.values()), default=0)
        lines.append([setting, str(n), *(_cell(metric, row.get(metric, [])) for metric in metrics)])
    return table(lines)


def _cell(metric: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    if metric in _UNITS:
        return _UNITS[metric](round(mean(values), 3))
    std = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{std}"


def write_csv(path: Path, rows: dict[str, dict[str, list[float]]]) -> None:
    """One line a setting and metric."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "metric", "runs", "mean", "std"])
        for setting, row in rows.items():
            for metric, values in row.items():
                std = stdev(values) if len(values) > 1 else ""
                writer.writerow([setting, metric, len(values), mean(values), std])
