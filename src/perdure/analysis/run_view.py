"""A run folder as the metrics of the catalog see it: results.json, metrics.jsonl, records/.

Nothing here imports torch. The files are foreign data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perdure.errors import UserError, printable
from perdure.io.files import open_plain, parse_json, read_json
from perdure.io.run_files import RESULTS_LIMIT, RunFiles
from perdure.metrics.measured import Confusions, Evaluated, Examples, Measured, Probe
from perdure.tracking.raw_files import read_examples, read_rows

_LINE_LIMIT = 4 * 2**20
_ERRORS = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What handling a file of another shape raises."""


def measured(folder: Path, baseline: Path | None = None) -> dict[str, Measured]:
    """Accuracy's name → what the run in `folder` measured of it.

    Args:
        folder: of a run of any version.
        baseline: of the run to compare with; None compares with none.

    Raises:
        UserError: a folder holds no run, its files are damaged, or the runs do not compare.
    """
    results = _results(folder)
    try:
        found = _views(folder, results)
    except _ERRORS as error:
        reason = printable(f"{type(error).__name__}: {error}"[:80])
        raise UserError(f"{folder}: its files are not those of a run ({reason})") from None
    if baseline is None:
        return found
    return _compared(found, results, baseline, folder)


def _results(folder: Path) -> dict[str, Any]:
    path = RunFiles(folder).results
    if not path.is_file():
        raise UserError(f"{folder}: no folder of a run (it has no {path.name})")
    try:
        found = read_json(path, RESULTS_LIMIT)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({printable(str(error))})") from None
    if not isinstance(found, dict) or not isinstance(found.get("accuracy_matrix"), dict):
        raise UserError(f"{path}: damaged (no results of a run)")
    return found


def _compared(
    found: dict[str, Measured], results: Mapping[str, Any], baseline: Path, folder: Path
) -> dict[str, Measured]:
    other = _results(baseline)
    for key in ("dataset", "n_tasks", "split", "scenario", "task_classes"):
        if results.get(key) != other.get(key):
            raise UserError(
                f"--baseline {baseline}: its {key} is not that of {folder}; name a run on the same "
                "benchmark"
            )
    try:
        views = _views(baseline, other)
    except _ERRORS:
        raise UserError(f"{baseline}: its files are not those of a run") from None
    compared = {}
    for name, view in found.items():
        known = views.get(name)
        if known is None or known.joint:
            compared[name] = view
            continue
        diagonal = [row[k] for k, row in enumerate(known.matrix)]
        compared[name] = replace(view, baseline=diagonal)
    return compared


def _views(folder: Path, results: Mapping[str, Any]) -> dict[str, Measured]:
    n_tasks, joint = int(results["n_tasks"]), results.get("training") == "joint"
    matrices = {
        str(name): [[_number(value) for value in row] for row in rows]
        for name, rows in results["accuracy_matrix"].items()
    }
    for matrix in matrices.values():
        sizes = [len(row) for row in matrix]
        if sizes != ([n_tasks] * len(matrix) if joint else list(range(1, len(matrix) + 1))):
            raise ValueError("no accuracy matrix")
    evaluations = list(_evaluations(folder, n_tasks, joint))
    rows = read_rows(folder)
    first = next(iter(matrices), "")
    n_trained = len(matrices.get(first, ()))
    return {
        name: Measured(
            accuracy=name,
            n_tasks=n_tasks,
            matrix=matrix,
            joint=joint,
            evaluations=[
                Evaluated(trained, boundary, [_number(v) for v in accuracy[name]])
                for trained, boundary, accuracy in evaluations
                if name in accuracy
            ],
            probes=list(_probes(rows, name)),
            incoming=[
                (int(row["correct"][name]), int(row["total"]))
                for row in rows
                if row.get("kind") == "incoming" and name in row["correct"]
            ],
            epochs=int(results.get("n_epochs") or 1),
            is_first=name == first,
            examples=_examples(folder, name, n_trained, joint),
            confusions=_confusions(results),
        )
        for name, matrix in matrices.items()
    }


def _evaluations(
    folder: Path, n_tasks: int, joint: bool
) -> Iterator[tuple[int, bool, Mapping[str, Any]]]:
    """(the task last trained, whether at its end, accuracies by name) of each evaluation."""
    rows = [row for row in _history(folder) if row.get("kind") == "evaluation"]
    for number, row in enumerate(rows):
        boundary, sizes = bool(row["boundary"]), {len(a) for a in row["accuracy"].values()}
        # Only before any training are all tasks evaluated at step 0, and more follows.
        is_whole = sizes == {n_tasks} and (n_tasks > 1 or len(rows) > 1)
        untrained = number == 0 and boundary and row["global_step"] == 0 and is_whole
        trained = n_tasks - 1 if joint else int(row["task"])
        yield -1 if untrained else trained, boundary, row["accuracy"]


def _history(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of metrics.jsonl, up to the first damaged one."""
    path = RunFiles(folder).metrics
    if not path.is_file():
        return
    try:
        with open_plain(path) as file:
            while (line := file.readline(_LINE_LIMIT + 1)) and len(line) <= _LINE_LIMIT:
                row = parse_json(line, _LINE_LIMIT)
                if isinstance(row, dict):
                    yield row
    except (OSError, ValueError):
        return


def _probes(rows: list[dict[str, Any]], name: str) -> Iterator[Probe]:
    for row in rows:
        if row.get("kind") != "probe" or name not in row["correct"]:
            continue
        counts = zip(row["tasks"], row["correct"][name], row["total"], strict=True)
        batch = row["batch"]
        yield Probe(
            task=int(row["task"]),
            batch=None if batch is None else int(batch),
            boundary=bool(row["boundary"]),
            accuracy={int(task): int(correct) / int(total) for task, correct, total in counts},
        )


def _examples(folder: Path, name: str, n_trained: int, joint: bool) -> Examples | None:
    """Those of the tasks seen, at the end of the last one; of the accuracy that was recorded."""
    last = 0 if joint else n_trained - 1
    arrays = read_examples(folder, last) if last >= 0 else None
    if arrays is None or f"predicted_{name}" not in arrays:
        return None
    seen = slice(None) if joint else arrays["task"] <= last
    return Examples(
        correct=(arrays[f"predicted_{name}"] == arrays["label"])[seen],
        confidence=arrays["confidence"][seen],
        brier=arrays["brier"][seen],
    )


def _confusions(results: Mapping[str, Any]) -> Confusions | None:
    found, classes = results.get("confusion"), results.get("task_classes")
    if found is None or classes is None:
        return None
    last = int(found["after_task"])
    earlier = {int(label) for task in classes[:last] for label in task}
    seen = sorted(earlier | {int(label) for label in classes[last]})
    if "counts" in found:
        counts = [
            (seen[i], seen[j], int(n))
            for i, row in enumerate(found["counts"])
            for j, n in enumerate(row)
            if n
        ]
    else:
        counts = [(seen[i], seen[j], int(n)) for i, j, n in found["nonzero"]]
    return Confusions(counts, frozenset(seen) - earlier)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
