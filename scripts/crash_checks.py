"""What the crash test compares: every file of two run folders, and the history at W&B.

Bits of checkpoints, results and metrics, report.html, figures/, accuracy.csv, the code snapshot,
links, leftover and missing files, the status, and the rows on the server. Clocks and paths differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare_ends import differences, rows_of

from perdure.checkpoint.core.format import read
from perdure.errors import UserError
from perdure.io.run_files import (
    CHECKPOINTS,
    HYDRA,
    LOCK,
    LOG,
    METRICS,
    REPORT,
    RESULTS,
    SETTINGS,
    STATUS,
    WANDB,
)
from perdure.run.folder import RunFolder
from perdure.wandb.rows import ORDER, to_row

OF_ONE_PROCESS = (LOCK, LOG, STATUS, WANDB)
"""Files whose contents are those of one process, one clock or one W&B run."""
CLOCKS = re.compile(
    r'<p class="notice">resumed from .*?</p>'
    r"|<div><dt>(?:time|training steps per second)</dt>.*?</div>"
    r"|<section><h2>Time</h2>.*?</section>"
    r"|<section><h2>Resumed and branched</h2>.*?</section>"
    r'|<td class="clock">.*?</td>'
    r"|<span>[\d.,]+ [kMG]?B</span>"  # sizes: a file that holds the list of resumes is longer
    r"|<div><dt>processes</dt>.*?</div>"
    r'|<p class="notice">\d+ process(?:es)?, .*?</p>'
)
"""What of report.html depends on clocks, and on where the run was resumed."""


def compare_folders(calm: Path, other: Path) -> list[str]:
    """Everything that differs in `other` from the undisturbed run `calm`, a line each."""
    names = [set(_names(folder)) for folder in (calm, other)]
    found = [f"{name}: missing" for name in sorted(names[0] - names[1])]
    found += [f"{name}: left over" for name in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        found += _compare_files(calm, other, name)
    if RunFolder(other).complete_results() is None:
        found.append(f"{STATUS}: the run is not finished, or its files are not those it ended with")
    return found


def _names(folder: Path) -> Iterator[str]:
    """Every file and link, but for what each start adds: Hydra's files, and W&B's client's."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if (path.is_symlink() or path.is_file()) and name.parts[0] not in (HYDRA, "wandb"):
            yield str(name)


def _compare_files(calm: Path, other: Path, name: str) -> list[str]:
    a, b = calm / name, other / name
    if a.is_symlink() or b.is_symlink():
        alike = a.is_symlink() and b.is_symlink() and os.readlink(a) == os.readlink(b)
        return [] if alike else [f"{name}: links elsewhere"]
    if name in OF_ONE_PROCESS or (a.parent.name == CHECKPOINTS and a.suffix == ".json"):
        return []  # a checkpoint is read through its sidecar
    if a.suffix in (".pt", ".pth"):
        found = differences(_state(a), _state(b), name)
        return [where for where in found if ".recorders.wandb." not in where]
    if name in (RESULTS, SETTINGS):
        return differences(json.loads(a.read_text()), json.loads(b.read_text()), name)
    if name == METRICS:
        return differences(rows_of(calm), rows_of(other), name)
    if name == REPORT:
        same = _without_clocks(calm) == _without_clocks(other)
    else:
        same = a.read_bytes() == b.read_bytes()
    return [] if same else [f"{name}: differs"]


def _state(path: Path) -> Any:
    """What a checkpoint holds; or why it cannot be read, which no other one says."""
    try:
        return read(path)
    except UserError as error:
        return str(error)


def _without_clocks(folder: Path) -> str:
    text = (folder / REPORT).read_text().replace(str(folder), "FOLDER")
    return CLOCKS.sub("", text)


def compare_rows(folder: Path, history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the server's history is not each row of metrics.jsonl once, in order.

    Args:
        folder: the run's folder.
        history: the rows that the server holds.
    """
    ours = [_measured(row) for line in rows_of(folder) if (row := to_row(line)) is not None]
    theirs = [_measured(row) for row in history if "train/loss" in row or _is_summary(row)]
    orders = [row[ORDER] for row in theirs]
    found = [
        f"W&B: row {order} is there {orders.count(order)} times"
        for order in sorted(set(orders))
        if orders.count(order) > 1
    ]
    lacking = sorted({row[ORDER] for row in ours} - set(orders))
    found += [f"W&B: row {order} is missing" for order in lacking]
    by_order = {row[ORDER]: row for row in theirs}
    return found + [
        f"W&B: row {row[ORDER]} differs"
        for row in ours
        if row[ORDER] in by_order and not row.items() <= by_order[row[ORDER]].items()
    ]


def _is_summary(row: Mapping[str, Any]) -> bool:
    return any(key.startswith(("eval/", "after_task/")) for key in row)


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what clocks and machines gave it."""
    return {k: v for k, v in row.items() if not k.startswith(("speed/", "machine/", "_"))}
