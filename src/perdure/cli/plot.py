"""Draw figures for a paper, of a run or of many runs, as PDF, SVG or PNG, with their numbers.

    perdure plot outputs/20261122-081146
    perdure plot outputs/20261122-081146 --format pdf svg --out paper/figures --only accuracy
    perdure plot accuracy outputs/my-sweep --columns 1
    perdure plot pareto outputs/sweep-1 'outputs/2026*' --by model buffer.size --out paper/figures

Of a run: each figure that it has something to show in, into the run's figures/ or --out. Of many:
the one that the first word names, a line a group of runs that differ in nothing but seeds and class
orders (or have the values of --by in common), into the sweep's figures/ or --out. The numbers are
beside each figure as CSV. In a PDF fonts are embedded and text stays text; it needs matplotlib
(pip install 'perdure[paper]').
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from perdure.errors import UserError, printable
from perdure.io.atomic import write_atomically
from perdure.io.files import read_json, require_own, writing
from perdure.io.run_files import FIGURES as FIGURES_FOLDER
from perdure.io.run_files import RESULTS, RESULTS_LIMIT, RunFiles
from perdure.tracking.charts import COLUMNS, SCREEN, UNNAMED, Frame
from perdure.tracking.drawing import Drawing, to_svg
from perdure.tracking.figures import FIGURES, drawn
from perdure.tracking.formatting import SCENARIOS
from perdure.tracking.run_data import RunData

MANY = ("accuracy", "retention", "forgetting", "pareto", "confusion", "orders")
"""Figures of many runs: the names in `perdure.analysis.figures.FIGURES`, imported where needed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what `arguments` name and print the files; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parse = _of_many if words and words[0] in MANY else _of_run
    try:
        for path in parse(words):
            print(path)
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    return 0


def _parser(usage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perdure plot",
        usage=usage,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["pdf"], dest="formats", help="(pdf)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="(figures/ in the folder)")
    parser.add_argument("--columns", type=int, choices=COLUMNS,
                        help="the width of one or of two columns of a paper")  # fmt: skip
    return parser


def _of_run(words: Sequence[str]) -> list[Path]:
    many = "|".join(MANY)
    parser = _parser(
        f"%(prog)s RUN_FOLDER [--only NAME …] [options]\n       %(prog)s {many} FOLDER … "
        "[--by KEY …] [options]"
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="NAME",
                        help=f"some of {', '.join(FIGURES)}")  # fmt: skip
    options = parser.parse_args(words)
    return plot(options.folder, options.formats, options.out, options.only, options.columns)


def _of_many(words: Sequence[str]) -> list[Path]:
    parser = _parser(f"%(prog)s {words[0]} FOLDER … [--by KEY …] [options]")
    parser.add_argument("figure", choices=MANY)
    parser.add_argument("folders", nargs="+", metavar="FOLDER",
                        help="runs, folders with runs below them, or globs of either")  # fmt: skip
    parser.add_argument("--by", nargs="+", metavar="KEY",
                        help="(whatever varies but seeds and class orders)")  # fmt: skip
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, help="(all that were measured)")
    options = parser.parse_args(words)
    return plot_many(
        options.figure,
        options.folders,
        options.by,
        options.formats,
        options.out,
        options.columns,
        options.scenario,
    )


def plot(
    run: Path,
    formats: Sequence[str],
    out: Path | None = None,
    names: Sequence[str] = tuple(FIGURES),
    columns: int | None = None,
) -> list[Path]:
    """Write the figures `names` of `run`, those that it has something to show in.

    Args:
        run: the run's folder.
        formats: of FORMATS.
        out: where to; None is the run's own folder of figures.
        names: of FIGURES.
        columns: of how many columns of a paper; None is the size of a page.

    Returns:
        The files written.

    Raises:
        UserError: the folder holds no readable results, or nothing to draw; or it cannot be
            written to.
    """
    data = _data(run)
    if out is None:
        require_own(run)
        out = RunFiles(run).figures
    drawings = {name: _drawn(name, data, COLUMNS.get(columns or 0, SCREEN)) for name in names}
    written: list[Path] = []
    for name, (drawing, table) in drawings.items():
        if drawing is not None:
            written += _write(out, name, drawing, table, formats)
    if not written:
        raise UserError(f"{run}: has nothing to draw yet of {', '.join(names)}")
    return written


def plot_many(
    figure: str,
    places: Sequence[str | Path],
    by: Sequence[str] | None = None,
    formats: Sequence[str] = ("pdf",),
    out: Path | None = None,
    columns: int | None = None,
    scenarios: Sequence[str] | None = None,
) -> list[Path]:
    """Write a figure of many runs, one a scenario (class-IL, task-IL, …).

    Args:
        figure: of MANY.
        places: run folders, folders with runs below them, or globs of either.
        by: keys whose values make a group; None is whatever varies but seeds and class orders.
        formats: of FORMATS.
        out: where to; None is figures/ in the one place that was given.
        columns: of how many columns of a paper; None is the size of a page.
        scenarios: of class_il, task_il, domain_il; None is all that were measured.

    Returns:
        The files written.

    Raises:
        UserError: there is no run, nothing to draw, no such key, or no place to write to.
    """
    from perdure.analysis.curves import groups_of, scenarios_of
    from perdure.analysis.figures import FIGURES, View
    from perdure.analysis.runs import read

    groups = groups_of(read(places), by)
    out = _own_figures(places) if out is None else out
    frame = COLUMNS.get(columns or 0, UNNAMED)
    measured = scenarios_of(groups)
    written: list[Path] = []
    for scenario in scenarios or measured:
        for drawn_plot in FIGURES[figure](View(groups, scenario, frame=frame)):
            written += _write(out, drawn_plot.name, drawn_plot.drawing, drawn_plot.table, formats)
    if not written:
        where = ", ".join(map(str, places))
        raise UserError(f"{where}: the finished runs have nothing to draw of {figure}")
    return written


def _own_figures(places: Sequence[str | Path]) -> Path:
    """The figures' folder of the one folder that was given.

    Raises:
        UserError: there are several, or it is a link.
    """
    if len(places) != 1 or not Path(places[0]).is_dir():
        raise UserError("--out: must name a folder for the figures of several folders")
    folder = Path(places[0]) / FIGURES_FOLDER
    if folder.is_symlink():
        raise UserError(f"{folder}: a link: nothing is written through it; choose another --out")
    return folder


def _write(
    out: Path, name: str, drawing: Drawing, table: str, formats: Sequence[str]
) -> Iterator[Path]:
    files = {f"{name}.{kind}": FORMATS[kind](drawing) for kind in formats}
    with writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        for file, content in {**files, f"{name}.csv": table.encode()}.items():
            write_atomically(out / file, content)
            yield out / file


def _data(run: Path) -> RunData:
    files = RunFiles(run)
    if not files.results.is_file():
        raise UserError(f"{run}: no folder of a run (it has no {RESULTS})")
    try:
        results = read_json(files.results, RESULTS_LIMIT)
    except (OSError, ValueError) as error:
        raise UserError(f"{files.results}: damaged ({printable(str(error))})") from None
    if not isinstance(results, dict):
        raise UserError(f"{files.results}: damaged (no JSON object)")
    return RunData(results, files.metrics)


def _drawn(name: str, data: RunData, frame: Frame) -> tuple[Drawing | None, str]:
    """The drawing and its numbers.

    Raises:
        UserError: what the run's files hold is not what a run writes.
    """
    try:
        drawing = drawn(name, data, frame)
        return drawing, "" if drawing is None else FIGURES[name].table(data)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise UserError(
            f"{data.metrics.parent}: {name} cannot be drawn, its files are damaged "
            f"({printable(f'{type(error).__name__}: {error}')})"
        ) from None


def _pdf(drawing: Drawing) -> bytes:
    from perdure.tracking.pdf import to_pdf

    return to_pdf(drawing)


def _png(drawing: Drawing) -> bytes:
    from perdure.tracking.raster import to_png

    return to_png(drawing)


def _svg(drawing: Drawing) -> bytes:
    return to_svg(drawing).encode()


FORMATS: dict[str, Callable[[Drawing], bytes]] = {"pdf": _pdf, "svg": _svg, "png": _png}
"""What a figure is written as, by the ending of its file's name."""
