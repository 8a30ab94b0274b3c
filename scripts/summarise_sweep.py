"""A sweep's accuracies: mean ± standard deviation over seeds, one row a setting.

python scripts/summarise_sweep.py outputs/20261122-081146
python scripts/summarise_sweep.py outputs/my-sweep --over seed model.alpha

Jobs that differ only in `seed` (or in what --over names) make a row, called by the other overrides
that vary. Prints a Markdown table in percent, writes summary.csv with fractions into the folder,
and names the jobs that have not finished. Exit status 1: there are such jobs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from perdure.cli.processes import table

FIGURES = ("average_accuracy", "forgetting")
_NOT_A_SETTING = ("timestamp", "threads", "checkpoint", "tracking", "device", "output_root")


@dataclass(frozen=True)
class Run:
    """One job: what it was set to, how it ended, and its figures as fractions."""

    folder: Path
    overrides: dict[str, str]
    status: str
    figures: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Summarise the folder that `arguments` name; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--over", nargs="+", default=["seed"], metavar="KEY", help="averaged over")
    options = parser.parse_args(arguments)
    runs = sorted(read(options.folder), key=lambda run: _natural(run.folder))
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
    for path in sweep.rglob(".hydra/overrides.yaml"):
        folder = path.parents[1]
        typed = [str(o).lstrip("+~").partition("=") for o in yaml.safe_load(path.read_text()) or []]
        overrides = {k: v for k, _, v in typed if k.split(".")[0] not in _NOT_A_SETTING}
        results = folder / "results.json"
        known: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
        status = str(known.get("status", "not started"))
        yield Run(folder, overrides, status, _figures(known) if status == "finished" else {})


def _figures(results: dict[str, Any]) -> dict[str, float]:
    return {
        f"{figure}.{scenario}": value
        for figure in FIGURES
        for scenario, value in (results.get(figure) or {}).items()
        if value is not None
    }


def _natural(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 0, str(folder))


def summary(runs: Sequence[Run], over: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Of each setting, by its name, each figure's values."""
    keys = [key for run in runs for key in run.overrides]
    varied = {k for k in keys if len({run.overrides.get(k) for run in runs}) > 1} - set(over)
    rows: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        setting = " ".join(f"{k}={v}" for k, v in run.overrides.items() if k in varied)
        row = rows.setdefault(setting or "all", {})
        for figure, value in run.figures.items():
            row.setdefault(figure, []).append(value)
    return rows


def report(rows: dict[str, dict[str, list[float]]]) -> str:
    """A Markdown table; percent, mean ± sample standard deviation."""
    figures = list(dict.fromkeys(figure for row in rows.values() for figure in row))
    lines = [["setting", "runs", *figures]]
    for setting, row in rows.items():
        n = max(map(len, row.values()), default=0)
        lines.append([setting, str(n), *(_spread(row.get(figure, [])) for figure in figures)])
    return table(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}"


def write_csv(path: Path, rows: dict[str, dict[str, list[float]]]) -> None:
    """One line a setting and figure."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "figure", "runs", "mean", "std"])
        for setting, row in rows.items():
            for figure, values in row.items():
                spread = stdev(values) if len(values) > 1 else ""
                writer.writerow([setting, figure, len(values), mean(values), spread])


if __name__ == "__main__":
    sys.exit(main())
