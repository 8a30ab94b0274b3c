"""What figures of many runs show, as numbers: curves of groups of runs over tasks, their spread.

A group is the finished runs of one setting. Results are foreign data: a run whose accuracy matrix
is not one counts as a run without that accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev

from perdure.analysis.groups import REPEATED
from perdure.analysis.runs import Run, varied
from perdure.errors import UserError
from perdure.tracking.formatting import SCENARIOS

Row = Sequence[float | None]
Matrix = Sequence[Row]
"""Accuracies as fractions, row i after task i; None is no measurement."""


@dataclass(frozen=True)
class Group:
    """Finished runs that are drawn as one line, or one point.

    Attributes:
        name: for a legend: `derpp, buffer 200`.
        runs: its members.
    """

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def only_seeds(self) -> bool:
        """Whether nothing but the seed tells its runs apart."""
        return not varied(self.runs, without=("seed",))

    @property
    def is_joint(self) -> bool:
        """Whether its runs trained all tasks as one: an upper bound, not a curve."""
        return all(run.results.get("training") == "joint" for run in self.runs)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `n` values; a single one has no deviation."""

    n: int
    mean: float
    std: float | None


def groups_of(runs: Iterable[Run], by: Sequence[str] | None = None) -> list[Group]:
    """Finished runs by the values of keys, in the order in which each value is met first.

    Args:
        runs: those that have not finished are left out.
        by: keys of the configuration; None is whatever varies but REPEATED.

    Raises:
        UserError: no run has one of the keys.
    """
    finished = [run for run in runs if run.is_finished]
    keys = varied(finished, without=REPEATED) if by is None else list(by)
    for key in keys:
        if finished and not any(run.setting(key) for run in finished):
            raise UserError(
                f"--by {key}: no run has this key; must be a key of the configuration or a group, "
                "as model or buffer.size"
            )
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in finished:
        found.setdefault(tuple(run.setting(key) for key in keys), []).append(run)
    return [Group(_name(keys, values, runs), tuple(runs)) for values, runs in found.items()]


def _name(keys: Sequence[str], values: Sequence[str], runs: Sequence[Run]) -> str:
    """The model by its name alone; without keys, the model of all."""
    parts = [_part(key, value) for key, value in zip(keys, values, strict=True)]
    return ", ".join(filter(None, parts)) or runs[0].setting("model") or "all runs"


def _part(key: str, value: str) -> str:
    if key == "model":
        return value
    if key == "training":
        return "trained jointly" if value == "joint" else ""
    return f"buffer {value}" if key == "buffer.size" else f"{key}={value}"


def scenarios_of(groups: Iterable[Group]) -> list[str]:
    """The accuracies (class_il, task_il, domain_il) of which some run has a matrix."""
    runs = [run for group in groups for run in group.runs]
    return [name for name in SCENARIOS if any(matrix(run, name) for run in runs)]


def matrix(run: Run, scenario: str) -> Matrix:
    """The accuracy matrix; empty where there is none, or it is none."""
    found = run.results.get("accuracy_matrix")
    rows = found.get(scenario) if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return ()
    is_joint = run.results.get("training") == "joint"
    if not is_joint and any(len(row) <= index for index, row in enumerate(rows)):
        return ()
    return [[_fraction(value) for value in row] for row in rows]


def _fraction(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= 1 else None


def average_accuracy(rows: Matrix) -> Row:
    """Mean accuracy on the tasks seen, after each task."""
    return [_mean(row) for row in rows]


def forgetting(rows: Matrix) -> Row:
    """Of each task but the last: its best accuracy before the end less that at the end.

    f_j^T of Chaudhry et al. 2018 (Riemannian Walk), whose mean over j is the forgetting F_T.
    """
    if len(rows) < 2:
        return []
    return [_lost(rows, task) for task in range(len(rows) - 1)]


def _lost(rows: Matrix, task: int) -> float | None:
    before = [row[task] for row in rows[task:-1]]
    known = [value for value in before if value is not None]
    end = rows[-1][task]
    return None if end is None or not known else max(known) - end


def retention(rows: Matrix) -> Row:
    """Of each task: its accuracy at the end as a share of that just after it was trained.

    R[T, j] / R[j, j]; None where the task was never known, since nothing could be kept.
    """
    if len(rows) < 2:
        return []
    pairs = ((rows[task][task], rows[-1][task]) for task in range(len(rows)))
    return [end / learned if learned and end is not None else None for learned, end in pairs]


def _mean(row: Row) -> float | None:
    known = [value for value in row if value is not None]
    return sum(known) / len(known) if known and len(known) == len(row) else None


def spreads(group: Group, scenario: str, curve: Callable[[Matrix], Row]) -> list[Spread | None]:
    """At each task the spread of a curve over the group's runs; None where no run has a value."""
    curves = [curve(rows) for run in group.runs if (rows := matrix(run, scenario))]
    length = max(map(len, curves), default=0)
    at = ([c[task] for c in curves if task < len(c)] for task in range(length))
    return [spread([value for value in values if value is not None]) for values in at]


def spread(values: Sequence[float]) -> Spread | None:
    """Of some values; None of none."""
    if not values:
        return None
    return Spread(len(values), mean(values), stdev(values) if len(values) > 1 else None)


def final_accuracy(group: Group, scenario: str) -> Spread | None:
    """The average accuracy at the end, over the group's runs."""
    return metric(group, f"average_accuracy.{scenario}")


def metric(group: Group, name: str) -> Spread | None:
    """A metric of `Run.metrics`, over the group's runs."""
    return spread([run.metrics[name] for run in group.runs if name in run.metrics])


def by_order(group: Group, scenario: str) -> list[float]:
    """The average accuracy of each class order, a mean over its seeds."""
    found: dict[str, list[float]] = {}
    for run in group.runs:
        value = run.metrics.get(f"average_accuracy.{scenario}")
        if value is not None:
            found.setdefault(run.class_order, []).append(value)
    return [mean(values) for values in found.values()]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third, interpolated between neighbors."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.25), at(0.5), at(0.75)


def repeats(groups: Iterable[Group]) -> str:
    """What a spread is over, for a note: `5 seeds`, `3 to 5 runs`; empty where nothing repeats."""
    counted = list(groups)
    sizes = sorted({len(group.runs) for group in counted})
    if not sizes or sizes[-1] < 2:
        return ""
    number = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{number} {'seeds' if all(group.only_seeds for group in counted) else 'runs'}"
