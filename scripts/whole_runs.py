"""CPU time of whole `python train.py` processes, by phase (`benchmark.py --phases`)."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perdure.analysis.tables import markdown_table as table
from perdure.cli.processes import TRAIN, Usage, python

PLAIN_LOOP = Path(__file__).with_name("plain_loop.py")
PHASES = ("start", "training", "evaluation", "checkpoint")
IMPORTS: dict[str, tuple[str | Path, ...]] = {
    "python": ("-c", ""),
    "import numpy": ("-c", "import numpy"),
    "import torch": ("-c", "import torch"),
    "import perdure.run.assemble": ("-c", "import perdure.run.assemble"),
    "train --help": (*TRAIN, "--help"),
}


def whole_runs(
    datasets: Sequence[str], model: str, runs: int, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Run `model` on each of `datasets`, `runs` times, and the imports alone as often."""
    report: dict[str, Any] = {"model": model, "runs": runs, "load": os.getloadavg()[0]}
    report["imports"] = {
        name: spread([python(*arguments).cpu_seconds for _ in range(runs)])
        for name, arguments in IMPORTS.items()
    }
    report["phases"] = {}
    for dataset in datasets:
        chosen = [f"model={model}", f"dataset={dataset}", "device=cpu", *overrides]
        measured = [_whole_run(chosen) for _ in range(runs)]
        report["phases"][dataset] = {key: spread([m[key] for m in measured]) for key in measured[0]}
    return report


def paired(dataset: str, model: str, runs: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Runs without and with `overrides` in turn; how many times as much CPU time these take."""
    chosen = [f"model={model}", f"dataset={dataset}", "device=cpu"]
    pairs = [(_whole_run(chosen), _whole_run([*chosen, *overrides])) for _ in range(runs)]
    key = "whole process"
    return {
        "overrides": list(overrides),
        "without": spread([before[key] for before, _ in pairs]),
        "with": spread([after[key] for _, after in pairs]),
        "ratio": spread([after[key] / before[key] for before, after in pairs]),
    }


def against_plain(model: str, runs: int) -> dict[str, Any]:
    """The main job and the plain loop in turn, as whole processes."""
    chosen = [f"model={model}", "dataset=seq-mnist", "buffer.size=500", "device=cpu"]
    saving = [*chosen, "checkpoint.save=true"]
    pairs = []
    for _ in range(runs):
        plain = python(PLAIN_LOOP, "--model", model).cpu_seconds
        pairs.append((plain, *(_whole_run(words)["whole process"] for words in (chosen, saving))))
    return {
        "without": spread([plain for plain, _, _ in pairs]),
        "with": spread([ours for _, ours, _ in pairs]),
        "ratio": spread([ours / plain for plain, ours, _ in pairs]),
        "saving": spread([saved / plain for plain, _, saved in pairs]),
    }


def plain_table(report: dict[str, Any]) -> str:
    """The report of `against_plain` as a table."""
    rows = {
        "plain loop": "without",
        "perdure": "with",
        "perdure / plain loop": "ratio",
        "the same with checkpoint.save=true": "saving",
    }
    named = [(name, *_cells(report[key])) for name, key in rows.items()]
    return table([("CPU s, one thread", "min", "median", "max"), *named])


def paired_table(report: dict[str, Any]) -> str:
    """The report of `paired` as a table."""
    named = {"without": report["without"], " ".join(report["overrides"]): report["with"]}
    rows: list[Sequence[str]] = [("CPU s, one thread", "min", "median", "max")]
    rows += [(name, *_cells(values)) for name, values in named.items()]
    return table([*rows, ("times as much", *_cells(report["ratio"]))])


def _whole_run(overrides: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "run", Path(name) / "log"
        used = python(*TRAIN, *overrides, f"hydra.run.dir={folder}", log=log)
        if used.status != 0:
            raise SystemExit(f"train.py {' '.join(overrides)} failed:\n{log.read_text()}")
        return by_phase(json.loads((folder / "results.json").read_text())["cpu_seconds"], used)


def by_phase(counted: dict[str, float], used: Usage) -> dict[str, float]:
    """CPU seconds of a run by phase.

    Args:
        counted: what the run wrote down itself, by phase.
        used: what its process took; `rest` is what comes after the run has written that down
            (the picture, the report, the interpreter's end).
    """
    phases = {phase: counted[phase] for phase in PHASES}
    rest = used.cpu_seconds - sum(phases.values())
    whole = {"whole process": used.cpu_seconds, "wall clock": used.wall_seconds}
    return {**phases, "rest": rest, **whole, "peak MB": used.peak_mb}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def phases_table(report: dict[str, Any]) -> str:
    """The report of `whole_runs` as a table."""
    rows: list[Sequence[str]] = [("CPU s, one thread", "min", "median", "max")]
    named = {f"{report['model']} on {dataset}": p for dataset, p in report["phases"].items()}
    for name, phases in named.items():
        rows += [(f"{name}: {phase}", *_cells(values)) for phase, values in phases.items()]
    rows += [(name, *_cells(values)) for name, values in report["imports"].items()]
    head = f"{report['runs']} runs; load {report['load']:.1f} on {os.cpu_count()} cores"
    return f"{head}\n{table(rows)}"


def _cells(values: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{values[key]:,.2f}" for key in ("min", "median", "max"))
