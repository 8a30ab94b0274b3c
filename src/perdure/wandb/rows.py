"""Conversion of metrics.jsonl to rows of W&B's history, of results to its summary and config.

Every row has its own `global_step`, `task` and `epoch`; W&B's internal step means nothing here.
A row's *order* grows strictly over a run and depends on its position alone, never on the clock or
on how often something was logged before. So the last order in the server's history says which rows
it lacks, even when the process that sent them was killed.
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
_FACTS = (
    "model", "dataset", "buffer_size", "training", "n_epochs", "n_tasks", "scenario", "split",
)  # fmt: skip
"""What results.json starts with and a run's config repeats under short names."""
AXES = {
    "train/*": "global_step",
    "speed/*": "global_step",
    "machine/*": "global_step",
    "eval/*": "global_step",
    "after_task/*": "task",
}
"""Metrics → the axis they are drawn over at first; every row has the other axes too."""


def order(kind: str, global_step: int) -> int:
    """The position of a row among all rows of its run."""
    return len(_RANK) * global_step + _RANK[kind]


def to_row(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of W&B for a line of metrics.jsonl; None if the line is no measurement.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: a run writes no such line.
    """
    kind = line["kind"]
    if kind not in _VALUES:
        return None
    position = {key: line[key] for key in ("global_step", "task", "epoch") if key in line}
    values = {key: value for key, value in _VALUES[kind](line) if value is not None}
    if not all(type(value) in (int, float) for value in (*position.values(), *values.values())):
        raise ValueError("a measurement must be an integer or float")
    return {**position, **values, ORDER: order(kind, line["global_step"])}


def _of_step(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "train/loss", line["loss"]
    yield "train/lr", line["lr"]
    for name, value in line.get("logged", {}).items():
        yield f"train/{name}", value
    for key, value in line["clock"].items():
        if key == "steps_per_second":
            yield "speed/steps_per_second", value
        elif key != "time":
            yield f"machine/{key}", value


def _of_evaluation(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, accuracies in line["accuracy"].items():
        for task, accuracy in enumerate(accuracies):
            yield f"eval/{name}/task{task}/acc", accuracy
        measured = [accuracy for accuracy in accuracies if accuracy is not None]
        if measured:
            yield f"eval/{name}/avg_acc", sum(measured) / len(measured)
    yield "speed/evaluation_seconds", line["clock"].get("seconds")


def _of_task(line: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for metric, short in _SHORT.items():
        for name, value in (line.get(metric) or {}).items():
            yield f"after_task/{name}/{short}", value
    yield "speed/task_seconds", line["clock"].get("seconds")


_VALUES = {"step": _of_step, "evaluation": _of_evaluation, "task": _of_task}


def summary(results: Mapping[str, Any], best: Mapping[str, float]) -> dict[str, Any]:
    """The run's summary: the last metrics, the best ones, and the costs.

    Args:
        results: what results.json holds.
        best: the highest value so far of each `after_task/…` accuracy.
    """
    values: dict[str, Any] = {
        "status": results["status"],
        "tasks_done": results.get("tasks_done"),
        "global_step": results.get("global_step"),
    }
    for metric, short in _SHORT.items():
        for name, value in (results.get(metric) or {}).items():
            values[f"last/{name}/{short}"] = value
    for key, value in best.items():
        values[key.replace("after_task/", "best/", 1)] = value
    cost = results.get("cost") or {}
    for key in ("parameters", "bytes", "exemplars", "examples", "clock"):
        for name, number in (cost.get(key) or {}).items():
            values[f"cost/{key}/{name}".replace("/clock/", "/")] = number
    if cost:
        values["cost/flops"] = cost["flops"]
    for key in ("seconds", "cpu_seconds"):
        for phase, spent in (results.get(key) or {}).items():
            values[f"{key}/{phase}"] = spent
    return {key: value for key, value in values.items() if value is not None}


def results_of(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What `summary` took from results.json, as it was there; the rest of it is not sent."""
    names = {short: metric for metric, short in _SHORT.items()}
    cost: dict[str, Any] = {}
    found: dict[str, Any] = {"cost": cost}
    for key, value in sent.items():
        kind, _, rest = key.partition("/")
        first, _, last = rest.partition("/")
        if kind == "last" and last in names:
            found.setdefault(names[last], {})[first] = value
        elif key == "cost/flops":
            cost["flops"] = value
        elif kind == "cost":
            # The clock's entries are sent without its name.
            section, name = (first, last) if last else ("clock", first)
            cost.setdefault(section, {})[name] = value
        elif kind in ("seconds", "cpu_seconds") and rest:
            found.setdefault(kind, {})[rest] = value
    return found


def nested_key(sent: str) -> str | None:
    """The key of the configuration that `flat_config` has sent as `sent`; None for a mere fact."""
    if sent in _FACTS or sent.startswith("environment/"):
        return None
    return sent.replace("/", ".")


def flat_config(args: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration by which people filter runs: `model`, `buffer_size`, …, `optimizer/lr`, ….

    Args:
        args: the composed configuration as plain data.
        results: the facts that results.json starts with.
    """
    short = {key: results[key] for key in ("seed", *_FACTS) if key in results}
    environment = {f"environment/{k}": v for k, v in (results.get("environment") or {}).items()}
    mirrored = {key: value for key, value in args.items() if key != "tracking"}
    return {**dict(_leaves(mirrored)), **environment, **short}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
