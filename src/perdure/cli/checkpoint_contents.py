"""What `perdure inspect` prints: a checkpoint's content, its position, and whether it is intact."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.format import DamagedError
from perdure.checkpoint.interop.foreign import Opened, open_file
from perdure.errors import UserError, printable
from perdure.io.run_files import RunFiles
from perdure.tracking.formatting import TextTable, byte_size, percent, run_title, scenario_name

KINDS = {
    "perdure": "the full state of a run",
    "weights-only": "weights under model_state_dict",
    "mammoth": "a Mammoth checkpoint",
    "catalyst": "a Catalyst checkpoint",
    "plain": "a network's weights",
}
MAMMOTH_FACTS = ("model", "dataset", "buffer_size", "n_epochs", "batch_size", "lr", "seed")
SUFFIXES = (".pt", ".pth")
NUMBER_BYTES = 8


def show(path: Path, as_json: bool = False) -> int:
    """Print what the file or folder holds; returns the exit status."""
    try:
        found = [look(file) for file in _files(path)]
    except UserError as error:
        _print_error(str(error))
        return 2
    if as_json:
        content: Any = found if path.is_dir() else found[0]
        print(json.dumps(_for_json(content), indent=1))
    elif path.is_dir():
        print("\n".join(map(printable, _table(found))))
    elif "problem" not in found[0]:
        print("\n".join(map(printable, _text(found[0]))))
    for problem in (file["problem"] for file in found if "problem" in file):
        _print_error(problem)
    statuses: list[int] = [file["status"] for file in found]
    return max(statuses, key=(0, 2, 1).index)


def _print_error(sentence: str) -> None:
    print(f"perdure: {printable(sentence)}", file=sys.stderr)


def look(path: Path) -> dict[str, Any]:
    """Facts about the file at `path`, and the exit status for it."""
    try:
        opened = open_file(path)
    except UserError as error:
        lost = not path.exists() and sidecars.path_of(path).exists()
        damaged = lost or isinstance(error, DamagedError)
        facts = {"file": str(path), "intact": False if damaged else None, "problem": str(error)}
        return {**facts, "status": 1 if damaged else 2}
    return {
        "file": str(path),
        "kind": opened.kind,
        "bytes": opened.path.stat().st_size,
        "intact": True,
        "checked": "sha256" if opened.metadata else "crc32",
        "sha256": opened.metadata.get("sha256"),
        "position": _dictionary(opened.content.get("position", opened.metadata.get("position"))),
        "n_tasks": _summary(opened).get("n_tasks"),
        "joint": _is_joint(opened),
        "subject": _subject(opened),
        "network": {name: list(tensor.shape) for name, tensor in opened.weights.items()},
        "buffer": {name: list(tensor.shape) for name, tensor in opened.buffer.items()},
        "seen": _dictionary(opened.content.get("buffer")).get("seen"),
        "parts": {str(name): _n_bytes(part) for name, part in opened.content.items()},
        "versions": _dictionary(opened.content.get("versions")),
        "overrides": _words(opened.content.get("overrides")),
        "accuracy_matrix": _matrices(opened),
        "args": opened.args,
        "status": 0,
    }


def _files(path: Path) -> Iterator[Path]:
    """The file itself, or the checkpoints in a folder in the order of their writing."""
    if not path.is_dir():
        yield path
        return
    inner = RunFiles(path).checkpoints
    folder = inner if inner.is_dir() else path
    names = {p.name for p in folder.iterdir() if p.suffix in SUFFIXES}
    # A sidecar without its file is a loss that must be seen.
    committed = sidecars.checkpoints_in(folder)
    names |= {path.name for path in committed if path.suffix in SUFFIXES}
    if not names:
        raise UserError(f"{path}: holds no checkpoint (a .pt or .pth file)")
    found = [folder / name for name in names]
    yield from sorted(found, key=lambda p: (p.is_symlink(), _written(p), p.name))


def _written(path: Path) -> float:
    return path.lstat().st_mtime if path.exists() else math.inf


# --- what is found ----------------------------------------------------------------------------


def _dictionary(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list | tuple) else []


def _summary(opened: Opened) -> dict[str, Any]:
    return _dictionary(_dictionary(opened.results).get("summary"))


def _is_joint(opened: Opened) -> bool:
    """Whether all tasks were trained at once."""
    facts = (
        _summary(opened).get("training"),
        opened.metadata.get("stage"),
        "joint" if opened.args.get("joint") == 1 else None,
    )
    return "joint" in facts


def _subject(opened: Opened) -> str:
    """What was run, in one phrase."""
    if opened.kind == "perdure":
        summary = _summary(opened)
        seed, started = summary.get("seed"), summary.get("timestamp")
        return f"{run_title(summary)}, seed {seed}, started {started}"
    facts = (f"{key}={opened.args[key]}" for key in MAMMOTH_FACTS if key in opened.args)
    return ", ".join(facts)


def _matrices(opened: Opened) -> dict[str, list[list[float | None]]]:
    """Scenario → rows of accuracies in [0, 1], row i after training task i."""
    if opened.kind == "perdure":
        return {
            str(name): rows
            for name, matrix in _dictionary(_summary(opened).get("accuracy_matrix")).items()
            if (rows := _rows(matrix))
        }
    if opened.kind == "mammoth" and isinstance(opened.results, list | tuple):
        found = zip(("class_il", "task_il"), opened.results, strict=False)
        return {name: rows for name, matrix in found if (rows := _rows(matrix, 100))}
    return {}


def _rows(matrix: Any, whole: float = 1) -> list[list[float | None]]:
    """`matrix` in fractions of `whole`; empty for text, as Mammoth writes some."""
    try:
        return [[None if v is None else float(v) / whole for v in row] for row in matrix]
    except (TypeError, ValueError):
        return []


def _n_bytes(value: Any) -> int:
    """About how much of the file it takes."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_n_bytes(key) + _n_bytes(part) for key, part in value.items())
    if isinstance(value, list | tuple | set):
        return sum(map(_n_bytes, value))
    return 0 if value is None else NUMBER_BYTES


# --- printing ----------------------------------------------------------------------------------


def _text(file: dict[str, Any]) -> list[str]:
    parts = (f"{name} {byte_size(size)}" for name, size in file["parts"].items() if size)
    facts = {
        "file": f"{Path(file['file']).name}: {KINDS[file['kind']]}, {byte_size(file['bytes'])}",
        "intact": _intact(file),
        "run": file["subject"],
        "overrides": " ".join(file["overrides"]),
        "stands": _stands(file),
        "network": _network(file["network"]),
        "buffer": _buffer(file),
        "parts": "" if file["kind"] == "plain" else ", ".join(parts),
        "versions": ", ".join(f"{name} {version}" for name, version in file["versions"].items()),
    }
    lines = [f"{label:<10} {words}" for label, words in facts.items() if words]
    for scenario, rows in file["accuracy_matrix"].items():
        lines += ["", *_accuracies(scenario, rows, file["joint"])]
    return lines


def _intact(file: dict[str, Any]) -> str:
    if file["checked"] == "sha256":
        return f"yes, SHA-256 {file['sha256']} as in its sidecar"
    return "yes by the file's own checksums (CRC-32); it has no sidecar"


def _stands(file: dict[str, Any]) -> str:
    at = file["position"]
    if not {"task", "epoch", "step", "global_step"} <= at.keys():
        return ""
    done = f"{at['global_step']:,} steps done" if isinstance(at["global_step"], int) else ""
    if file["joint"]:
        where = "all tasks trained jointly," if at["task"] else f"joint training, {_within(at)};"
        return f"{where} {done}"
    if at["task"] == file["n_tasks"]:
        return f"all {at['task']} tasks trained, {done}"
    return f"next is task {at['task']}, {_within(at)}; {done}"


def _within(at: dict[str, Any]) -> str:
    return f"epoch {at['epoch']}, step {at['step']}"


def _network(shapes: dict[str, list[int]]) -> str:
    n = sum(map(math.prod, shapes.values()))
    return f"{n:,} numbers in {len(shapes)} tensors"


def _buffer(file: dict[str, Any]) -> str:
    if not file["buffer"]:
        return ""
    fields = (f"{name} {'x'.join(map(str, size))}" for name, size in file["buffer"].items())
    seen = f"; {file['seen']:,} examples seen" if isinstance(file["seen"], int) else ""
    return ", ".join(fields) + seen


def _accuracies(scenario: str, rows: list[list[float]], joint: bool) -> list[str]:
    n_tasks = max(map(len, rows))
    header = (f"{scenario_name(scenario)} %", *(f"task {task}" for task in range(n_tasks)))
    grid = TextTable(
        header,
        tuple(
            (
                "joint" if joint else f"after task {i}",
                *map(percent, row),
                *[""] * (n_tasks - len(row)),
            )
            for i, row in enumerate(rows)
        ),
    )
    return grid.lines()


def _table(found: list[dict[str, Any]]) -> list[str]:
    """A line for each file of a folder."""
    rows = [("file", "size", "intact", "what")]
    for file in found:
        name = Path(file["file"]).name
        if Path(file["file"]).is_symlink():
            name += f" -> {Path(file['file']).readlink()}"
        if "problem" in file:
            rows.append((name, "-", "no" if file["intact"] is False else "?", "see below"))
            continue
        what = "; ".join(filter(None, (KINDS[file["kind"]], _stands(file))))
        rows.append((name, byte_size(file["bytes"]), "yes", what))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _for_json(value: Any) -> Any:
    """What JSON can hold: no NaN, no tensors, text as keys."""
    if isinstance(value, Mapping):
        return {str(key): _for_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_for_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
