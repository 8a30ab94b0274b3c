"""Compare the ends of two runs bit by bit: weights, optimizer, buffer, results and metrics.

python scripts/compare_ends.py RUN OTHER

Both need `checkpoint.save=true`. Exit status 1, and what differs, where anything but clocks does;
2, and a sentence, where one of them has no end to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from perdure.checkpoint.core.format import read
from perdure.errors import UserError
from perdure.run.folder import RunFolder

WITHOUT = {
    "clock", "seconds", "cpu_seconds", "resumes", "timestamp", "at", "processes",
    "metrics_sha256", "metrics_bytes",  # of lines that hold clocks
    "args", "overrides",  # hold paths; `config.json` has what counts
}  # fmt: skip


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
    rows = [rows_of(folder) for folder in (run, other)]
    found += differences(rows[0], rows[1], "metrics.jsonl")
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, other)]
    return found + differences(results[0], results[1], "results.json")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def differences(a: Any, b: Any, where: str) -> list[str]:
    """The places below `where` at which two states differ, but for clocks."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in {**a, **b} if k not in WITHOUT]
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


def require_end(path: Path) -> None:
    """Refuse a folder without the files that the end of a run is told by.

    Raises:
        UserError: says what is missing, and what to do.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    results = folder.read_results()
    if results is None:
        raise UserError(f"{path}: is no folder of a run (it has no {folder.results.name})")
    if results.get("status") != "finished":
        raise UserError(
            f"{path}: the run there is not finished (it is {results.get('status')}); resume it "
            f"with checkpoint.load={path} first"
        )
    if not folder.metrics.is_file():
        raise UserError(f"{path}: damaged ({folder.metrics.name} is missing)")
    if not any(folder.checkpoints.glob("*.pt")):
        raise UserError(f"{path}: has no checkpoint of a task; run it with checkpoint.save=true")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args(arguments)
    try:
        for path in (options.run, options.other):
            require_end(path)
        found = compare(options.run, options.other)
    except (UserError, OSError, ValueError) as error:
        print(f"compare_ends: {error}", file=sys.stderr)
        return 2
    for where in found[:10]:
        print(where)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
