"""Compute metrics of runs from what they recorded, without training: forgetting, stability gap, ….

    perdure metrics outputs/20261122-081146
    perdure metrics outputs/sweep/* --add stability_gap recency_bias --format csv
    perdure metrics outputs/er --add intransigence plasticity --baseline outputs/from-scratch

Works on runs of any version: a metric that a run has not recorded enough for has no value, with the
reason. Accuracies are fractions. --add all adds the whole catalog; --list shows it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.analysis.run_view import measured
from perdure.analysis.tables import markdown_table
from perdure.errors import UserError
from perdure.metrics import catalog
from perdure.metrics.measured import Undefined

DEFAULT = (
    "average_accuracy",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
)
"""Metrics that every run has."""
ALL = "all"


@dataclass(frozen=True)
class Value:
    """A metric of a run, by one accuracy.

    Attributes:
        run: the run's folder.
        accuracy: class_il, task_il or domain_il.
        metric: its name in the catalog.
        value: None where it has none.
        reason: why it has none.
    """

    run: str
    accuracy: str
    metric: str
    value: float | None
    reason: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the metrics of the runs that `arguments` name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure metrics",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folder of a run")
    parser.add_argument("--add", nargs="+", default=[], metavar="NAME", help="metrics to add")
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="of model=from-scratch")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="(markdown)")
    parser.add_argument("--list", action="store_true", help="show the catalog")
    options = parser.parse_args(arguments)
    if options.list:
        print(catalog.table(), end="")
        return 0
    try:
        names = chosen(options.add)
        if not options.runs:
            raise UserError("perdure metrics: name at least one folder of a run")
        values = [v for run in options.runs for v in values_of(run, names, options.baseline)]
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    print(FORMATS[options.format](values), end="")
    return 0


def chosen(added: Sequence[str]) -> list[str]:
    """The default metrics and those `added`, in the order of the catalog.

    Raises:
        UserError: there is no such metric.
    """
    for name in added:
        if name not in (*catalog.CATALOG, ALL):
            accepted = ", ".join(catalog.CATALOG)
            raise UserError(f"--add {name}: there is no such metric; must be {ALL}, {accepted}")
    wanted = set(catalog.CATALOG) if ALL in added else {*DEFAULT, *added}
    return [name for name in catalog.CATALOG if name in wanted]


def values_of(run: Path, names: Sequence[str], baseline: Path | None = None) -> list[Value]:
    """The metrics `names` of the run in the folder `run`, for each of its accuracies.

    Raises:
        UserError: as `run_view.measured`.
    """
    found = []
    for accuracy, view in measured(run, baseline).items():
        for name in names:
            value = catalog.compute(name, view)
            undefined = isinstance(value, Undefined)
            found.append(
                Value(
                    str(run),
                    accuracy,
                    name,
                    None if isinstance(value, Undefined) else value,
                    str(value) if undefined else None,
                )
            )
    return found


def as_markdown(values: Sequence[Value]) -> str:
    """A table, one column a run and accuracy, and the reasons of what is undefined."""
    columns = list(dict.fromkeys((v.run, v.accuracy) for v in values))
    cells = {(v.metric, v.run, v.accuracy): v for v in values}
    rows = [["metric", *(f"{run} {accuracy}" for run, accuracy in columns)]]
    for metric in dict.fromkeys(v.metric for v in values):
        found = [cells.get((metric, *column)) for column in columns]
        shown = [
            "" if v is None else "null" if v.value is None else f"{v.value:.4f}" for v in found
        ]
        rows.append([metric, *shown])
    lines = [markdown_table(rows), ""]
    reasons: dict[str, list[str]] = {}
    for v in values:
        if v.reason is not None:
            reasons.setdefault(f"{v.metric} ({v.accuracy}): {v.reason}", []).append(v.run)
    n_runs = len({v.run for v in values})
    for sentence, runs in reasons.items():
        where = "" if len(runs) == n_runs else f" [{', '.join(runs)}]"
        lines.append(f"null: {sentence}{where}")
    return "\n".join(lines) + "\n"


def as_csv(values: Sequence[Value]) -> str:
    """One line a run, accuracy and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "accuracy", "metric", "value", "reason"])
    writer.writerows([v.run, v.accuracy, v.metric, v.value, v.reason] for v in values)
    return text.getvalue()


def as_json(values: Sequence[Value]) -> str:
    """A list of objects with the same fields; null is a metric without a value."""
    return json.dumps([vars(v) for v in values], indent=1) + "\n"


FORMATS = {"markdown": as_markdown, "csv": as_csv, "json": as_json}
"""Name of a format → the text of values in it."""
