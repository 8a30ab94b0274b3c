"""Summary tables of groups of runs: mean ± std over seeds and class orders, costs, and per cost.

`write` puts summary.csv, summary.md and summary.tex into the folder of a sweep.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.analysis.groups import (
    Group,
    Spread,
    grouped,
    metrics_of,
    spread_of,
    tuning_note,
)
from perdure.analysis.recorded import with_recorded
from perdure.analysis.runs import Run
from perdure.analysis.statistics import LEVEL
from perdure.analysis.tables import Cell, Table, label, marks_note, marks_of
from perdure.errors import printable
from perdure.io.atomic import write_atomically
from perdure.tracking.formatting import SCENARIOS, byte_size, duration, operations, scenario_name

SHORT = ("average_accuracy", "forgetting")
LONG = (
    "average_accuracy", "average_incremental_accuracy", "average_anytime_accuracy", "forgetting",
    "backward_transfer", "stability_gap", "min_accuracy", "worst_case_accuracy",
)  # fmt: skip
COSTS = ("cost.bytes", "cost.flops", "cost.cpu_seconds")
RECORDED = ("stability_gap",)
_MOST_READ = 200
"""Runs whose records are read for a summary that nobody has asked for them."""
MARKDOWN, LATEX, CSV = "summary.md", "summary.tex", "summary.csv"
"""Files in the folder of a sweep."""
_UNITS: dict[str, tuple[Callable[[Any], str], float, str]] = {
    "cost.bytes": (byte_size, 1e6, "MB"),
    "cost.exemplar_bytes": (byte_size, 1e6, "MB"),
    "cost.peak_memory": (byte_size, 1e6, "MB"),
    "cost.flops": (operations, 1e9, "GFLOP"),
    "cost.seconds": (duration, 60, "minute"),
    "cost.cpu_seconds": (duration, 60, "CPU minute"),
    "cost.parameters": (lambda n: f"{n:,.0f}", 1e3, "thousand parameters"),
    "cost.trained": (lambda n: f"{n:,.0f}", 1e3, "thousand examples trained on"),
    "cost.replayed": (lambda n: f"{n:,.0f}", 1e3, "thousand examples replayed"),
}
"""How a cost is shown, and the unit of `per`: how large it is, and its name."""
_DATA_HEADS = (
    "setting", "metric", "runs", "mean", "std", "seeds", "orders", "std_seeds", "std_orders",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A metric of a table, or one per unit of a cost."""

    metric: str
    per: str = ""

    @property
    def name(self) -> str:
        """`average_accuracy.class_il per MB`."""
        return f"{self.metric} per {_UNITS[self.per][2]}" if self.per else self.metric

    def spread(self, group: Group) -> Spread | None:
        """Over the runs of a group; None where no run has it."""
        if not self.per:
            return group.spread(self.metric)
        unit = _UNITS[self.per][1]
        values = [
            (run.class_order, run.metrics[self.metric] / (run.metrics[self.per] / unit))
            for run in group.runs.values()
            if self.metric in run.metrics and run.metrics.get(self.per)
        ]
        return spread_of(values) if values else None

    def shown(self, spread: Spread | None) -> str:
        """Percent, or points a unit, mean ± sample standard deviation; a cost as its mean."""
        if spread is None:
            return ""
        if not self.per and self.metric in _UNITS:
            return _UNITS[self.metric][0](round(spread.mean, 3))
        number = _three_digits if self.per else _percent
        text = number(spread.mean)
        if spread.std is not None:
            text += f" ± {number(spread.std)}"
        if spread.seeds is not None and spread.orders is not None:
            text += f" (seeds ± {number(spread.seeds)}, orders ± {number(spread.orders)})"
        return text


def columns_of(groups: Sequence[Group], metrics: Sequence[str], per: Sequence[str]) -> list[Column]:
    """The columns of a table: each metric, and after it the same per unit of each cost."""
    return [
        column
        for metric in metrics
        for column in (
            Column(metric),
            *(Column(metric, cost) for cost in per if not metric.startswith("cost.")),
        )
    ]


def chosen(groups: Sequence[Group], families: Sequence[str], scenarios: Sequence[str]) -> list[str]:
    """The metrics of these families and scenarios (`class_il`) that the groups have."""
    known = metrics_of(groups)
    return [
        f"{family}.{scenario}"
        for family in families
        for scenario in scenarios
        if f"{family}.{scenario}" in known
    ]


def default_metrics(groups: Sequence[Group]) -> list[str]:
    """Average accuracy, forgetting and costs: what fits in a terminal."""
    known = metrics_of(groups)
    return [*chosen(groups, SHORT, tuple(SCENARIOS)), *(cost for cost in COSTS if cost in known)]


def table_of(
    groups: Sequence[Group],
    metrics: Sequence[str],
    per: Sequence[str] = (),
    test: str = "sign-flip",
    level: float = LEVEL,
    marked: bool = True,
) -> Table:
    """A row a group, a column a metric; the best accuracies are marked.

    Args:
        groups: of one set of keys.
        metrics: names, as `Run.metrics` has them.
        per: costs; each accuracy is also given per unit of these.
        test: of `statistics.TESTS`, for ties.
        level: of the ties.
        marked: False leaves the marks out, and the tests that they take.
    """
    keys = list(dict.fromkeys(key for group in groups for key in group.setting))
    columns = columns_of(groups, metrics, per)
    several_orders = any(group.n_orders > 1 for group in groups)
    counts = [("runs", lambda group: len(group.runs))]
    if any(group.n_seeds != len(group.runs) for group in groups):
        counts.append(("seeds", lambda group: group.n_seeds))
    if several_orders:
        counts.append(("orders", lambda group: group.n_orders))
    marks = {
        column: marks_of(groups, column.metric, test, level)
        for column in columns
        if marked and not column.per and not column.metric.startswith("cost.")
    }
    rows = []
    for place, group in enumerate(groups):
        names = [group.setting.get(key, "") for key in keys] or ["all"]
        row = [Cell(name) for name in names] + [Cell(str(count(group))) for _, count in counts]
        for column in columns:
            mark = marks[column].marks[place] if column in marks else ""
            row.append(Cell(column.shown(column.spread(group)), mark))
        rows.append(row)
    heads = [*(keys or ["setting"]), *(name for name, _ in counts), *(c.name for c in columns)]
    undecided = any(each.undecided for each in marks.values())
    notes = list(_notes(groups, columns, several_orders))
    if len(groups) > 1 and marks:
        notes.insert(0, marks_note(undecided, len(groups), test, level))
    return Table(
        heads, rows, max(1, len(keys)), notes, [*_DATA_HEADS, *keys], _data(groups, columns, keys)
    )


def _notes(
    groups: Sequence[Group], columns: Sequence[Column], several_orders: bool
) -> Iterator[str]:
    if any(not column.metric.startswith("cost.") for column in columns):
        yield "Percent, mean ± sample standard deviation over runs."
    if any(column.metric.startswith("cost.") for column in columns):
        yield "Costs are means over runs."
    if several_orders:
        yield (
            "Where class orders have several seeds each, the deviation over the seeds of an "
            "order and that of the orders' means are given beside it."
        )
    repeated = sum(group.repeated for group in groups)
    if repeated:
        yield (
            f"{repeated} run{'' if repeated == 1 else 's'} of the same setting, seed and order as "
            "another: the last one counts."
        )
    if note := tuning_note(groups):
        yield note


def _data(
    groups: Sequence[Group], columns: Sequence[Column], keys: Sequence[str]
) -> list[list[Any]]:
    rows = []
    for group in groups:
        setting = [group.setting.get(key, "") for key in keys]
        for column in columns:
            if (spread := column.spread(group)) is not None:
                spreads = [spread.seeds, spread.orders]
                counts = [group.n_seeds, group.n_orders]
                rows.append([
                    group.name, column.name, spread.n, spread.mean, spread.std, *counts, *spreads,
                    *setting,
                ])  # fmt: skip
    return rows


# --- the files of a sweep -------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A set of runs as tables: one a kind of accuracy, one of the costs.

    Attributes:
        title: a line.
        runs: all of them, finished or not.
        groups: the finished ones.
    """

    title: str
    runs: Sequence[Run]
    groups: Sequence[Group]

    @property
    def progress(self) -> str:
        """`3 of 4 runs finished, 1 failed`."""
        counts = Counter(run.status for run in self.runs)
        finished = counts.pop("finished", 0)
        rest = [f"{n} {status}" for status, n in sorted(counts.items())]
        return ", ".join([f"{finished} of {len(self.runs)} runs finished", *rest])

    def tables(self) -> dict[str, Table]:
        """Heading → table."""
        found = {}
        for scenario in SCENARIOS:
            if metrics := chosen(self.groups, LONG, (scenario,)):
                found[scenario_name(scenario)] = table_of(self.groups, metrics)
        if costs := [cost for cost in COSTS if cost in metrics_of(self.groups)]:
            found["cost"] = table_of(self.groups, costs)
        return found

    def markdown(self) -> str:
        """All tables, and which runs have not finished."""
        parts = [f"# {printable(self.title)}", f"{printable(self.progress)}."]
        for heading, table in self.tables().items():
            parts += [f"## {heading}", table.text("markdown")]
        left = [run for run in self.runs if not run.is_finished]
        if left:
            lines = [f"- `{printable(run.folder.name)}`: {printable(run.status)}" for run in left]
            parts += ["## not finished", "\n".join(lines)]
        return "\n\n".join(parts) + "\n"

    def latex(self) -> str:
        """All tables, one below the other."""
        parts = ["% needs \\usepackage{booktabs}", f"% {printable(self.title)}: {self.progress}"]
        for heading, table in self.tables().items():
            # Each table is of one kind of accuracy, so its heads need not name it.
            heads = [label(head).removesuffix(f", {heading}") for head in table.heads]
            parts.append(f"% {heading}\n{replace(table, heads=heads).latex()}")
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """Every metric of every group."""
        return table_of(self.groups, metrics_of(self.groups), marked=False).csv()

    def write(self, folder: Path) -> None:
        """Replace summary.csv, summary.md and summary.tex in `folder`, each in one step.

        Raises:
            OSError: the disk's own error.
        """
        # They can be made again at any time, so nothing waits for the disk.
        for name, text in ((CSV, self.csv()), (MARKDOWN, self.markdown()), (LATEX, self.latex())):
            write_atomically(folder / name, text.encode(), durable=False)


def summary_of(title: str, runs: Sequence[Run]) -> Summary:
    """The summary of runs, grouped by what varies; the stability gap is read from their records."""
    if len(runs) <= _MOST_READ:
        runs = with_recorded(runs, RECORDED)
    return Summary(title, runs, grouped(runs))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _three_digits(fraction: float) -> str:
    points = 100 * fraction
    return f"{points:.3g}" if points and math.isfinite(points) else "0"
