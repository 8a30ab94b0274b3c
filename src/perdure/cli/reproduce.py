"""Published accuracies, reproduced: each setting, each seed, a run of `perdure train experiment=…`.

perdure reproduce                                 settings with a band of accepted means, seeds 0-9
perdure reproduce seq-mnist/er --seeds 0 1 2 3 4  those of this method and benchmark
perdure reproduce dark-experience --hours 2       of a paper as many as two CPU hours are enough for
perdure reproduce dark-experience --estimate      how long that would take
perdure reproduce --folder outputs/reproduce-…    continue what was interrupted

Settings are the rows of conf/published/ (`perdure published` lists them). Further overrides
(`dataset.stop_after=2`) apply to every run; nothing is judged then. A setting that differs from
what was published gets ten further seeds. Leaves one folder a run, reproduce.json, reproduce.md,
and results.md and results.csv with a verdict on each figure. Exit status 1: a run failed, or a
mean lies outside its band.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from perdure.analysis.tables import markdown_table as table
from perdure.cli.estimates import cpu_seconds, needs_gpu
from perdure.cli.processes import python
from perdure.cli.published import fits_name
from perdure.cli.results_page import (
    STEP_TIMES,
    Measured,
    lines_of,
    of_sheet,
    page,
    sheet,
    step_times,
    with_earlier,
)  # fmt: skip
from perdure.cli.runs import Ended, Job, run_all
from perdure.config import tables
from perdure.config.compose import register
from perdure.config.folder import CHECKOUT
from perdure.config.overrides import Arguments
from perdure.config.published import published
from perdure.errors import UserError
from perdure.io.atomic import write_atomically
from perdure.tracking.formatting import scenario_name
from perdure.tracking.provenance import read_code

MORE_SEEDS = 10
"""Of a setting that differs from what was published."""

Percent = dict[str, float]
Bands = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        name: that of the published setting.
        paper: accuracies that were published, in percent.
        rerun: what another program gave when it was run again, in percent.
        bands: where the mean over seeds must lie, in percent.
    """

    name: str
    paper: Percent = field(default_factory=dict)
    rerun: Percent = field(default_factory=dict)
    bands: Bands = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """What to add to `perdure train`."""
        return [f"experiment={self.name}"]


def setting_of(row: tables.Setting) -> Setting:
    """The published row `row`; of two figures of one metric the first counts."""
    paper, rerun = Percent(), Percent()
    for figure in row.row.figures:
        kind, _, name = figure.metric.partition(".")
        if kind == "average_accuracy":
            (rerun if figure.origin == "rerun" else paper).setdefault(name, figure.mean)
    bands = {
        metric.partition(".")[2]: (float(low), float(high))
        for metric, (low, high) in row.row.bands.items()
    }
    return Setting(row.name, paper, rerun, bands)


def settings(starts: Sequence[str]) -> list[Setting]:
    """Settings that can be run: those named, or without names those with a band.

    Raises:
        UserError: nothing that can be run has such a name.
    """
    every = [s for s in published.settings.values() if published.is_runnable(s)]
    chosen = [s for s in every if any(fits_name(s, start) for start in starts) or not starts]
    if not chosen:
        raise UserError(
            f"{' '.join(starts)}: no setting that can be run has such a name; "
            "`perdure published` lists all"
        )
    return [setting_of(s) for s in chosen if starts or s.row.bands]


@dataclass(frozen=True)
class Run:
    """What one process gave: accuracies in percent, or why it failed."""

    seed: int
    accuracy: Percent
    wall_seconds: float
    cpu_seconds: float
    failure: str = ""


# --- running --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what `arguments` ask for; returns the exit status."""
    options = _options(arguments)
    names = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    try:
        published.look_in([options.config_dir] if options.config_dir else [])
        every = chosen = settings([*names, *options.only])
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    if options.config_dir:
        overrides.insert(0, f"--config-dir={Path(options.config_dir).resolve()}")
    register(Arguments(tuple(overrides)).config_folders)
    missing: dict[str, str] = {}
    if options.estimate or options.hours is not None:
        chosen, missing = plan(chosen, options, overrides)
    if options.estimate:
        return 0
    folder = options.folder or Path("outputs", f"reproduce-{datetime.now():%Y%m%d-%H%M%S}")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = reproduce(chosen, options.seeds, options.jobs, folder, overrides)
    if not overrides:
        report = with_more_seeds(report, chosen, options, folder)
        audits = {s.name: audit(s) for s in chosen} if options.audit else {}
        rows = measured(report, [s.name for s in every], audits, missing)
        write_results(rows, [folder, *([options.docs] if options.docs else [])])
    print(report_table(report))
    print(f"written to {folder}")
    return 1 if any(row["failures"] or False in row["inside"].values() for row in report) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perdure reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="NAME|KEY=VALUE", help="starts of names; overrides"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="more names")
    # ER-500 varies by 1.7 (standard deviation) from seed to seed: three cannot tell a band of ±2.
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--hours", type=float, help="CPU hours to spend, in this order")
    parser.add_argument("--estimate", action="store_true", help="say how long, run nothing")
    parser.add_argument("--audit", action="store_true", help="audit each method, too")
    parser.add_argument("--no-more-seeds", action="store_true", help="keep to --seeds")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="results go there, too")
    parser.add_argument("--folder", type=Path, help="where the runs go; finished ones are kept")
    parser.add_argument("--config-dir", help="a folder with published/*.yaml of your own")
    return parser.parse_intermixed_args(arguments)


def plan(
    chosen: Sequence[Setting], options: argparse.Namespace, overrides: Sequence[str]
) -> tuple[list[Setting], dict[str, str]]:
    """The settings that there is time for, in order, and why each other one is not run.

    Prints how many CPU hours each takes with all its seeds.
    """
    left = float("inf") if options.hours is None else options.hours
    taken, missing, total = [], {}, 0.0
    for setting in chosen:
        words = [*setting.overrides, *overrides]
        if needs_gpu(words):
            missing[setting.name] = "needs a GPU"
            print(f"{setting.name}: needs a GPU")
            continue
        hours = cpu_seconds(words) * len(options.seeds) / 3600
        total += hours
        print(f"{setting.name}: about {hours:.2f} CPU hours", flush=True)
        if hours <= left:
            left -= hours
            taken.append(setting)
        else:
            missing[setting.name] = f"not run, about {hours:.2f} CPU hours"
    print(f"all: about {total:.2f} CPU hours; {len(taken)} of {len(chosen)} settings are run")
    return taken, missing


def with_more_seeds(
    report: list[dict[str, Any]],
    chosen: Sequence[Setting],
    options: argparse.Namespace,
    folder: Path,
) -> list[dict[str, Any]]:
    """The report with ten further seeds of each setting that differs from what was published."""
    names = {
        line.measured.setting.name
        for line in lines_of(measured(report, [row["setting"] for row in report]))
        if line.verdict.startswith("differs")
    }
    again = [setting for setting in chosen if setting.name in names]
    if not again or options.no_more_seeds:
        return report
    print(f"{MORE_SEEDS} further seeds of what differs: {', '.join(sorted(names))}")
    start = max(options.seeds) + 1
    seeds = [*options.seeds, *range(start, start + MORE_SEEDS)]
    longer = {row["setting"]: row for row in reproduce(again, seeds, options.jobs, folder)}
    return [longer.get(row["setting"], row) for row in report]


def audit(setting: Setting) -> str:
    """The outcome of the audit of a setting's method, in a few words."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "audit.json")
        python("-m", "perdure", "audit", *setting.overrides, "--json", file)
        if not file.is_file():
            return "not possible"
        checks = json.loads(file.read_text())["checks"]
    failed = [check["check"] for check in checks if check["status"] == "FAILED"]
    n = sum(check["status"] == "passed" for check in checks)
    return f"FAILED: {', '.join(failed)}" if failed else f"{n} passed"


def measured(
    report: Sequence[dict[str, Any]],
    names: Sequence[str],
    audits: Mapping[str, str] | None = None,
    missing: Mapping[str, str] | None = None,
) -> list[Measured]:
    """What the report has of the settings called `names`, and why the others were not run."""
    rows = {row["setting"]: row for row in report}
    commit, date = read_code(CHECKOUT).version, f"{datetime.now():%Y-%m-%d}"
    found = []
    for name in names:
        row = rows.get(name, {})
        found.append(
            Measured(
                published.settings[name],
                row.get("accuracy", {}),
                row.get("seeds", ()),
                row.get("cpu_seconds"),
                (audits or {}).get(name, ""),
                (missing or {}).get(name, "failed" if row.get("failures") else "not run"),
                commit,
                date,
            )
        )
    return found


def write_results(rows: Sequence[Measured], folders: Sequence[Path]) -> None:
    """Write results.md and results.csv; what a folder's results.csv has of other rows stays."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        sheet_file = folder / "results.csv"
        text = sheet_file.read_text() if sheet_file.is_file() else ""
        before = of_sheet(text, published.settings)
        lines = lines_of(with_earlier(rows, before, published.settings))
        made = page(lines, step_times(folder / STEP_TIMES))
        write_atomically(folder / "results.md", made.encode())
        write_atomically(sheet_file, sheet(lines).encode())


def reproduce(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    at_a_time: int,
    folder: Path,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run every setting with every seed, so many at a time; returns reproduce.json's rows."""
    runs: dict[str, list[Run]] = {setting.name: [] for setting in settings}
    jobs = [
        (
            (setting, seed),
            Job(
                (*setting.overrides, f"seed={seed}", *overrides),
                folder / setting.name / f"seed-{seed}",
            ),
        )
        for setting in settings
        for seed in seeds
    ]
    report: list[dict[str, Any]] = []
    for (setting, seed), ended in run_all(jobs, at_a_time):
        run = run_of(seed, ended)
        runs[setting.name].append(run)
        print(line(setting.name, run), flush=True)
        report = [row(s, runs[s.name], not overrides) for s in settings if runs[s.name]]
        (folder / "reproduce.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "reproduce.md").write_text(report_table(report) + "\n")
    return report


def run_of(seed: int, ended: Ended) -> Run:
    """What one process gave."""
    return Run(seed, ended.accuracy, ended.wall_seconds, ended.cpu_seconds, ended.failure)


# --- reporting ------------------------------------------------------------------------------------


def row(setting: Setting, runs: Sequence[Run], judge: bool = True) -> dict[str, Any]:
    """One setting over its seeds: means, sample standard deviations, and whether they fit."""
    good = sorted((r for r in runs if not r.failure), key=lambda r: r.seed)
    each = {name: [r.accuracy[name] for r in good] for name in (good[0].accuracy if good else {})}
    means = {name: mean(values) for name, values in each.items()}
    bands = setting.bands if judge else {}
    return {
        "setting": setting.name,
        "overrides": " ".join(setting.overrides),
        "seeds": [r.seed for r in good],
        "accuracy": each,
        "mean": means,
        "sd": {k: stdev(v) if len(v) > 1 else None for k, v in each.items()},
        "paper": setting.paper,
        "rerun": setting.rerun,
        "bands": setting.bands,
        "inside": {k: low <= means[k] <= high for k, (low, high) in bands.items() if k in means},
        "wall_seconds": mean(r.wall_seconds for r in good) if good else None,
        "cpu_seconds": mean(r.cpu_seconds for r in good) if good else None,
        "failures": {r.seed: r.failure for r in runs if r.failure},
    }


def line(name: str, run: Run) -> str:
    """One run in a line."""
    if run.failure:
        return f"{name} seed {run.seed}: FAILED: {run.failure}"
    shown = ", ".join(f"{scenario_name(key)} {value:.2f}" for key, value in run.accuracy.items())
    return f"{name} seed {run.seed}: {shown} ({run.cpu_seconds:.1f} CPU s)"


def report_table(report: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table; percent, mean ± sample standard deviation over seeds."""
    heads = ["setting", "seeds", "class-IL or domain-IL", "task-IL", "published", "rerun"]
    rows = [[*heads, "band", "inside", "wall s", "CPU s"]]
    for r in report:
        main = "domain_il" if "domain_il" in r["mean"] else "class_il"
        failed = f" ({len(r['failures'])} failed)" if r["failures"] else ""
        rows.append(
            [
                r["setting"],
                f"{len(r['seeds'])}{failed}",
                _spread(r, main),
                _spread(r, "task_il"),
                " / ".join(f"{v:.2f}" for v in r["paper"].values()),
                " / ".join(f"{v:.2f}" for v in r["rerun"].values()),
                " / ".join(f"{low:g}–{high:g}" for low, high in r["bands"].values()),
                " / ".join("yes" if fits else "NO" for fits in r["inside"].values()),
                *("" if r[k] is None else f"{r[k]:.1f}" for k in ("wall_seconds", "cpu_seconds")),
            ]
        )
    return table(rows)


def _spread(r: dict[str, Any], name: str) -> str:
    if name not in r["mean"]:
        return ""
    sd = r["sd"][name]
    return f"{r['mean'][name]:.2f}" if sd is None else f"{r['mean'][name]:.2f} ± {sd:.2f}"
