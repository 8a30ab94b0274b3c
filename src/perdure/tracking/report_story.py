"""A run in plain words: what it reached, from what it was resumed or branched, its protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from perdure.tracking.formatting import percent, scenario_name
from perdure.tracking.report_parts import PROTOCOL, flattened, protocol_value
from perdure.tracking.task_figures import TaskEnds, task_ends

_TOLD = {
    "class_il": "when it chooses among all classes",
    "task_il": "when it is told their task",
    "domain_il": "without being told their domain",
}
"""What the network is told at test time, by scenario."""


def sentences(results: Mapping[str, Any]) -> Iterator[str]:
    """The result in a few sentences."""
    done, n_tasks = results.get("tasks_done") or 0, results.get("n_tasks") or 0
    average = {k: v for k, v in (results.get("average_accuracy") or {}).items() if v is not None}
    if not average:
        return
    status = str(results.get("status", "?"))
    joint = results.get("training") == "joint"
    if status != "finished":
        yield f"The run is {status} after {done} of {n_tasks} tasks; the numbers are of these."
    when = "Trained on all tasks at once" if joint else f"After {done} task{'s' * (done != 1)}"
    split = "validation" if results.get("split") == "validation" else "test"
    parts = [
        f"{percent(value)} % {_TOLD[key]} ({scenario_name(key)})" if key in _TOLD
        else f"{percent(value)} % ({key})"
        for key, value in average.items()
    ]  # fmt: skip
    yield (
        f"{when}, {results.get('model', '?')} gets right, of the {split} examples of a task on "
        f"average, {' and '.join(parts)}."
    )
    n_classes = len(results.get("class_names") or ())
    if "class_il" in average and n_classes and done == n_tasks:
        yield f"Guessing among the {n_classes} classes would give {percent(1 / n_classes, 1)} %."
    if not joint:
        yield from _forgotten(results)


def _forgotten(results: Mapping[str, Any]) -> Iterator[str]:
    matrices = results.get("accuracy_matrix") or {}
    for key, rows in matrices.items():
        lost = [(e, e.forgotten) for e in _learned(task_ends(rows)) if e.forgotten is not None]
        mean = (results.get("forgetting") or {}).get(key)
        if not lost or mean is None:
            continue
        most, most_points = max(lost, key=lambda pair: pair[1])
        points = "points of accuracy" if most_points > 0 else "points"
        yield (
            f"On earlier tasks it has lost {percent(mean)} {points} ({scenario_name(key)}), most "
            f"on task {most.task}: {percent(most.best, 1)} % fell to {percent(most.last, 1)} %."
        )
        return  # one scenario, the hardest, is the headline; the others are in the figures


def _learned(ends: Sequence[TaskEnds]) -> Sequence[TaskEnds]:
    return ends[:-1]


def history_section(results: Mapping[str, Any]) -> str:
    """From which checkpoints the run was resumed or branched, and what it no longer compares to."""
    lines = [
        f"{_verb(entry)} {entry.get('from', '?')} on {entry.get('at', '?')}"
        for entry in results.get("resumes") or ()
        if isinstance(entry, Mapping)
    ]
    marks = results.get("other_benchmark") or ()
    lines += [f"another benchmark than its start: {_plain(mark)}" for mark in marks]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    if not items:
        return '<p class="under">One process trained it from its first step to its last.</p>'
    return f'<ul class="files">{items}</ul>'


def _verb(entry: Mapping[str, Any]) -> str:
    return "branched from (a fork of)" if entry.get("fork") else "resumed from"


def _plain(mark: Any) -> str:
    if isinstance(mark, Mapping):
        return ", ".join(f"{key} {value}" for key, value in mark.items())
    return str(mark)


def protocol(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What decides whether the result may be compared with another, by its name for people."""
    flat = dict(flattened(dict(config)))
    for key, name in PROTOCOL.items():
        if flat.get(key) is not None:
            yield name, protocol_value(flat[key])
