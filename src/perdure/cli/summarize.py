"""Mean ± standard deviation over seeds and class orders of any set of runs, one row a setting.

Runs that differ only in `seed`, `dataset.seed` or `dataset.class_order` make a row, called by what
varies beside, or by --by. Prints a table in percent and names the runs that have not finished. For
the folder of one sweep the tables with all metrics are also written into it, as summary.csv,
summary.md and summary.tex.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.analysis.groups import Group, grouped, metrics_of, require_metrics
from perdure.analysis.recorded import families, with_recorded
from perdure.analysis.runs import Run, read, run_folders, selected
from perdure.analysis.statistics import LEVEL, TESTS
from perdure.analysis.summary import Summary, default_metrics, table_of
from perdure.analysis.tables import FORMATS
from perdure.cli.main import explained, worded_exit
from perdure.errors import UserError, printable

_EXAMPLES = """\
examples:
  perdure summarize outputs/20261122-081146
  perdure summarize 'outputs/2026*' outputs/mine --by model,buffer.size --where dataset=seq-mnist
  perdure summarize outputs/mine --metric average_accuracy.class_il --per cost.bytes
  perdure summarize outputs/mine --format latex > table.tex
  perdure summarize wandb://team/project --by model

exit status: 0, 1 when some runs have not finished, 2 for a mistake in the command
"""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Summarize the runs that `arguments` name; returns the exit status."""
    options = _options(arguments)
    with explained([]):
        runs = selected(read(options.places), listed(options.where))
        runs = with_recorded(runs, families(listed(options.metric)))
        by = None if options.by is None else listed(options.by)
        groups = grouped(runs, by, listed(options.over))
        _print_table(options, groups)
        _write(options.places, runs, groups)
    unfinished = [run for run in runs if not run.is_finished]
    for run in unfinished:
        # A table that goes to a file holds no other lines.
        to = sys.stdout if options.format == "markdown" else sys.stderr
        print(printable(f"{run.folder}: {run.status}"), file=to)
    return 1 if unfinished else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perdure summarize",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "places", nargs="+", metavar="FOLDER", help="runs, sweeps, globs, wandb://entity/project"
    )
    add = parser.add_argument
    add("--by", nargs="+", metavar="KEY", help="a row for each value of these (all that varies)")
    add("--over", nargs="+", default=[], metavar="KEY", help="averaged over, as the seed is")
    add("--where", nargs="+", default=[], metavar="KEY=VALUE", help="only these runs")
    add("--metric", nargs="+", metavar="NAME", help="columns; `all` is every one there is")
    add(
        "--per", nargs="+", default=[], metavar="COST", help="also per unit of these, as cost.bytes"
    )
    add("--test", choices=TESTS, default="sign-flip", help="for ties with the best (sign-flip)")
    add("--level", type=level, default=LEVEL, help=f"of these ties ({LEVEL:g})")
    add("--format", choices=FORMATS, default="markdown", help="of what is printed (markdown)")
    return parser.parse_intermixed_args(arguments)


def listed(words: Sequence[str] | None) -> list[str]:
    """Words that may hold several, with commas between them."""
    return [part for word in words or () for part in word.split(",") if part]


def level(text: str) -> float:
    """A significance level.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def _print_table(options: argparse.Namespace, groups: Sequence[Group]) -> None:
    if not groups:
        return
    metrics = listed(options.metric) or default_metrics(groups)
    metrics = metrics_of(groups) if metrics == ["all"] else metrics
    per = listed(options.per)
    require_metrics(groups, [*metrics, *per])
    for cost in per:
        if not cost.startswith("cost."):
            raise UserError(f"--per {cost}: is no cost; must be one, as cost.bytes or cost.flops")
    # Stars would stand in the way of who reads the numbers in a terminal.
    marked = options.format == "latex" or not sys.stdout.isatty()
    table = table_of(groups, metrics, per, options.test, options.level, marked)
    print(table.text(options.format))


def _write(places: Sequence[str], runs: Sequence[Run], groups: Sequence[Group]) -> None:
    """The files of a sweep, where one is all that was named."""
    folder = Path(places[0])
    if len(places) == 1 and folder.is_dir() and next(run_folders(folder), folder) != folder:
        Summary(f"Sweep {folder.resolve().name}", runs, groups).write(folder)
