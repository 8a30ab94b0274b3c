"""Lines of metrics.jsonl as rows of W&B's history, and results as its summary.

Every row has its own `global_step`, `task` and `epoch`; W&B's internal step means nothing here.
A row's *order* grows strictly over a run and depends on its place alone, never on the clock or on
how often something was logged before. So the last order that a server has tells what it lacks,
whatever killed the process that sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ORDER = "order"
_RANK = {"step": 0, "evaluation": 1, "task": 2, "end": 3}
_SHORT = {
    "average_accuracy": "avg_acc",
    "forgetting": "forgetting",
    "backward_transfer": "bwt",
    "forward_transfer": "fwt",
}
AXES = {
    "train/*": "global_step",
    "speed/*": "global_step",
    "machine/*": "global_step",
    "eval/*": "global_step",
    "after_task/*": "task",
}
"""Metrics → the axis they are drawn over at first; every row has the other axes too."""


def order(kind: str, global_step: int) -> int:
    """The place of a row among all rows of its run."""
    return len(_RANK) * global_step + _RANK[kind]


def to_row(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """A line of metrics.jsonl as W&B gets it; none for what is no measurement.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: it is no line that a run wrote.
    """
    kind = line["kind"]
    if kind not in _MEASURED:
        return None
    place = {key: line[key] for key in ("global_step", "task", "epoch") if key in line}
    values = {key: value for key, value in _MEASURED[kind](line) if value is not None}
    if not all(type(value) in (int, float) for value in (*place.values(), *values.values())):
        raise ValueError("a measurement is a number")
    return {**place, **values, ORDER: order(kind, line["global_step"])}


def _of_step(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "train/loss", line["loss"]
    yield "train/lr", line["lr"]
    for key, value in line["clock"].items():
        if key == "steps_per_second":
            yield "speed/steps_per_second", value
        elif key != "time":
            yield f"machine/{key}", value


def _of_evaluation(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, accuracies in line["accuracy"].items():
        for task, accuracy in enumerate(accuracies):
            yield f"eval/{name}/task{task}/acc", accuracy
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        if known:
            yield f"eval/{name}/avg_acc", sum(known) / len(known)
    yield "speed/evaluation_seconds", line["clock"].get("seconds")


def _of_task(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for figure, short in _SHORT.items():
        for name, value in (line.get(figure) or {}).items():
            yield f"after_task/{name}/{short}", value
    yield "speed/task_seconds", line["clock"].get("seconds")


_MEASURED = {"step": _of_step, "evaluation": _of_evaluation, "task": _of_task}


def summary(results: Mapping[str, Any], best: Mapping[str, float]) -> dict[str, Any]:
    """What stands in the run's summary: the last figures, the best ones, and the costs.

    Args:
        results: what results.json holds.
        best: the highest value so far of each `after_task/…` accuracy.
    """
    values: dict[str, Any] = {
        "status": results["status"],
        "tasks_done": results.get("tasks_done"),
        "global_step": results.get("global_step"),
    }
    for figure, short in _SHORT.items():
        for name, value in (results.get(figure) or {}).items():
            values[f"last/{name}/{short}"] = value
    for key, value in best.items():
        values[key.replace("after_task/", "best/", 1)] = value
    for key in ("seconds", "cpu_seconds"):
        for phase, spent in (results.get(key) or {}).items():
            values[f"{key}/{phase}"] = spent
    return {key: value for key, value in values.items() if value is not None}


def flat_config(args: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as people filter runs: `model`, `buffer_size`, … and `optimizer/lr`, ….

    Args:
        args: the composed configuration as plain data.
        results: the facts that results.json starts with.
    """
    facts = ("model", "dataset", "buffer_size", "seed", "training", "n_epochs", "n_tasks")
    short = {key: results[key] for key in (*facts, "scenario", "split") if key in results}
    environment = {f"environment/{k}": v for k, v in (results.get("environment") or {}).items()}
    mirrored = {key: value for key, value in args.items() if key != "tracking"}
    return {**dict(_leaves(mirrored)), **environment, **short}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
