"""Published accuracies, reproduced: every setting, every seed, each a run of `python train.py`.

perdure reproduce                                 all settings, seeds 0 to 9
perdure reproduce --only seq-mnist/er --seeds 0 1 2 3 4
perdure reproduce --folder outputs/reproduce-…    continue what was interrupted

Hyperparameters come from conf/recipe/, so that a row is what a user gets who types its overrides.
Further overrides (`dataset.stop_after=2`) apply to every run; the bands are not judged then. Leaves
one folder a run, reproduce.json and reproduce.md. Exit status 1: a run failed, or a mean lies
outside its band.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from perdure.cli.processes import TRAIN, python, table
from perdure.io.run_files import RunFiles

Percent = dict[str, float]
Bands = dict[str, tuple[float, float]]
NAMES = {"class_il": "class-IL", "task_il": "task-IL", "domain_il": "domain-IL"}


@dataclass(frozen=True)
class Setting:
    """One row.

    Attributes:
        name: benchmark and method, with the buffer's size.
        overrides: what to add to `python train.py`.
        paper: accuracies that Buzzega et al. 2020, "Dark experience for general continual
            learning", tab. 2 prints (Mammoth's own protocol), in percent.
        rerun: what Mammoth itself gave when it was run again, in percent.
        bands: where the mean over seeds must lie, in percent.
    """

    name: str
    overrides: str
    paper: Percent = field(default_factory=dict)
    rerun: Percent = field(default_factory=dict)
    bands: Bands = field(default_factory=dict)


def _split(class_il: float, task_il: float) -> Percent:
    return {"class_il": class_il, "task_il": task_il}


def _settings() -> list[Setting]:
    """Rows of the two MNIST benchmarks; buffer sizes as published."""
    seq = [
        Setting("sgd", "model=sgd", _split(19.60, 94.94), _split(19.61, 96.45),
                {"class_il": (19.1, 20.1)}),
        Setting("joint", "model=sgd training=joint", _split(95.57, 99.51), _split(95.48, 99.20),
                {"class_il": (95.0, 96.0)}),
        Setting("er-200", "model=er buffer.size=200", _split(80.43, 97.86), _split(79.07, 98.02),
                {"class_il": (78.0, 82.0)}),
        Setting("er-500", "model=er buffer.size=500", _split(86.12, 99.04), _split(87.02, 99.04),
                {"class_il": (85.0, 89.0), "task_il": (98.8, 100.0)}),
        Setting("derpp-200", "model=derpp buffer.size=200", _split(85.61, 98.76),
                _split(85.89, 98.87)),
        Setting("derpp-500", "model=derpp buffer.size=500", _split(91.00, 98.94),
                _split(91.53, 98.94), {"class_il": (90.3, 92.3)}),
        Setting("der-500", "model=der buffer.size=500", _split(90.54, 98.84)),
        Setting("agem-500", "model=agem buffer.size=500", _split(46.66, 98.93)),
        Setting("er-ace-500", "model=er-ace buffer.size=500"),
        Setting("ewc-online", "model=ewc-online", _split(20.46, 98.39)),
        Setting("si", "model=si", _split(19.27, 96.00)),
        Setting("lwf", "model=lwf", _split(19.62, 94.11)),
    ]  # fmt: skip
    perm = [
        Setting("sgd", "model=sgd", {"domain_il": 40.70}, {"domain_il": 39.53}),
        Setting("er-500", "model=er buffer.size=500", {"domain_il": 80.60}, {"domain_il": 80.49},
                {"domain_il": (79.5, 81.5)}),
        Setting("derpp-500", "model=derpp buffer.size=500", {"domain_il": 88.21},
                {"domain_il": 88.39}),
        Setting("ewc-online", "model=ewc-online", {"domain_il": 75.79}),
        Setting("si", "model=si", {"domain_il": 65.86}),
    ]  # fmt: skip
    return [
        Setting(
            f"{dataset}/{s.name}", f"{s.overrides} dataset={dataset}", s.paper, s.rerun, s.bands
        )
        for dataset, rows in (("seq-mnist", seq), ("perm-mnist", perm))
        for s in rows
    ]


SETTINGS = _settings()


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
    chosen = [s for s in SETTINGS if not options.only or _named(s, options.only)]
    if not chosen:
        names = ", ".join(s.name for s in SETTINGS)
        print(f"--only {' '.join(options.only)}: no setting has such a name ({names})")
        return 2
    folder = options.folder or Path("outputs", f"reproduce-{datetime.now():%Y%m%d-%H%M%S}")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = reproduce(chosen, options.seeds, options.jobs, folder, options.overrides)
    print(report_table(report))
    print(f"written to {folder}")
    return 1 if any(row["failures"] or False in row["inside"].values() for row in report) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perdure reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="starts of names")
    # ER-500 varies by 1.7 (standard deviation) from seed to seed: three cannot tell a band of ±2.
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--folder", type=Path, help="where the runs go; finished ones are kept")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every run")
    return parser.parse_intermixed_args(arguments)


def _named(setting: Setting, starts: Sequence[str]) -> bool:
    """Whether one of `starts` is the setting's name, or the start of it up to a separator."""
    return any(f"{setting.name}/".startswith((f"{s}/", f"{s}-")) for s in starts)


def reproduce(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    jobs: int,
    folder: Path,
    overrides: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run every setting with every seed, `jobs` at a time; returns the rows of reproduce.json."""
    runs: dict[str, list[Run]] = {setting.name: [] for setting in settings}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            waiting = {
                pool.submit(run_once, setting, seed, folder, overrides): setting
                for setting in settings
                for seed in seeds
            }
            for done in as_completed(waiting):
                setting, run = waiting[done], done.result()
                runs[setting.name].append(run)
                print(line(setting.name, run), flush=True)
                report = [row(s, runs[s.name], not overrides) for s in settings if runs[s.name]]
                (folder / "reproduce.json").write_text(json.dumps(report, indent=2) + "\n")
                (folder / "reproduce.md").write_text(report_table(report) + "\n")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return report


def run_once(setting: Setting, seed: int, folder: Path, overrides: Sequence[str]) -> Run:
    """One process in a run folder of its own; what had finished there before is taken as it is."""
    target = folder / setting.name / f"seed-{seed}"
    record = target.with_name(f"{target.name}.json")
    command = [*setting.overrides.split(), f"seed={seed}", *overrides]
    known = json.loads(record.read_text()) if record.is_file() else {}
    if known.get("command") != command:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        log = target.with_suffix(".log")
        used = python(*TRAIN, *command, f"hydra.run.dir={target}", log=log)
        if used.status != 0:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            reason = last[0] if last else f"exit status {used.status}"
            return Run(seed, {}, used.wall_seconds, used.cpu_seconds, reason)
        known = {"command": command, **asdict(used)}
        record.write_text(json.dumps(known) + "\n")
    average = json.loads(RunFiles(target).results.read_text())["average_accuracy"]
    accuracy = {name: 100 * value for name, value in average.items()}
    return Run(seed, accuracy, known["wall_seconds"], known["cpu_seconds"])


# --- reporting ------------------------------------------------------------------------------------


def row(setting: Setting, runs: Sequence[Run], judge: bool = True) -> dict[str, Any]:
    """One setting over its seeds: means, sample standard deviations, and whether they fit."""
    good = sorted((r for r in runs if not r.failure), key=lambda r: r.seed)
    each = {name: [r.accuracy[name] for r in good] for name in (good[0].accuracy if good else {})}
    means = {name: mean(values) for name, values in each.items()}
    bands = setting.bands if judge else {}
    return {
        "setting": setting.name,
        "overrides": setting.overrides,
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
    shown = ", ".join(f"{NAMES[key]} {value:.2f}" for key, value in run.accuracy.items())
    return f"{name} seed {run.seed}: {shown} ({run.cpu_seconds:.1f} CPU s)"


def report_table(report: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table; percent, mean ± sample standard deviation over seeds."""
    heads = ["setting", "seeds", "class-IL or domain-IL", "task-IL", "paper", "Mammoth rerun"]
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
