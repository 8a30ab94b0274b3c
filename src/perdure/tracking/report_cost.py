"""The cost of a run in its report: parameters, memory, examples, FLOPs, and each phase's share."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from perdure.tracking.formatting import byte_size, duration, operations

_MOST_PHASES = 60
"""Phases of tasks that are listed; of more only the totals are."""
KINDS = {
    "trainable": "trained parameters",
    "frozen": "frozen parameters, statistics of the network",
    "other_networks": "other networks: teachers, those of earlier tasks",
    "statistics": "stored statistics",
    "exemplars": "exemplars",
    "total": "total",
}
"""What is stored, as results.json calls it, for people."""


def cost_section(results: dict[str, Any]) -> str:
    """What the run holds, what it computed, and a row for each phase of a task."""
    cost = results.get("cost")
    if not cost:
        return ""
    held = _table(
        ["held at the end", "number", "bytes"],
        [
            [name, f"{_number_of(kind, cost):,}" if _number_of(kind, cost) else "", byte_size(size)]
            for kind, name in KINDS.items()
            if (size := cost["bytes"].get(kind, 0)) or kind == "total"
        ],
    )
    done = _table(["computed", ""], [[name, value] for name, value in _computed(cost)])
    return f'<div class="side">{held}{done}</div>{_phases(cost)}'


def _number_of(kind: str, cost: dict[str, Any]) -> int:
    """How many parameters or examples there are of a kind; 0 of what is not counted."""
    held = cost["exemplars"]["held"] if kind == "exemplars" else 0
    return int(cost["parameters"].get(kind, held))


def _computed(cost: dict[str, Any]) -> Iterator[tuple[str, str]]:
    examples, step = cost["examples"], cost["step"] or {}
    yield "examples trained on", f"{examples['trained']:,}"
    yield "examples replayed", f"{examples['replayed']:,}"
    yield "operations of training", operations(cost["flops"])
    if step:
        yield "operations of a step", operations(step["flops"])
        for way in ("forward", "backward"):
            passes, n = step[f"{way}_passes"], step[f"{way}_examples"]
            yield f"{way} passes of a step", f"{passes} with {n:,} examples"
    peak = cost.get("clock", {}).get("peak_memory_bytes")
    if peak:
        yield "peak memory", _Clock(byte_size(peak))


def _phases(cost: dict[str, Any]) -> str:
    phases = cost["phases"]
    if not phases or len(phases) > _MOST_PHASES:
        return ""
    rows = [
        [
            f"{phase['task']}: {phase['phase']}",
            f"{phase['steps']:,}",
            f"{phase['trained']:,}",
            f"{phase['replayed']:,}",
            operations(phase["steps"] * phase["step"]["flops"]),
            _Clock(duration(phase["seconds"])),
            _Clock(duration(phase["cpu_seconds"])),
        ]
        for phase in phases
    ]
    heads = ["task and phase", "steps", "trained on", "replayed", "operations", "time", "processor"]
    table = _table(heads, rows)
    if len(phases) <= 10:
        return table
    return f"<details><summary>each phase of a task</summary>{table}</details>"


class _Clock(str):
    """A cell that depends on the machine, and is marked so that reports can be compared."""


def _cell(value: str) -> str:
    mark = ' class="clock"' if isinstance(value, _Clock) else ""
    return f"<td{mark}>{escape(value)}</td>"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="metrics"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
