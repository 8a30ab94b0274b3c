"""Draw the figures of a run: accuracy matrix, accuracy curves, loss, confusion matrix.

    perdure plot outputs/20261122-081146
    perdure plot outputs/20261122-081146 --format pdf svg --out paper/figures --only accuracy

Reads results.json and metrics.jsonl of the run; writes each figure, and its numbers as CSV, into
the run's figures/ or --out. In a PDF fonts are embedded and text stays text; it needs matplotlib
(pip install 'perdure[paper]').
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from perdure.errors import UserError, printable
from perdure.io.atomic import write_atomically
from perdure.io.files import require_own, writing
from perdure.io.run_files import RunFiles
from perdure.run.folder import RunFolder
from perdure.tracking.drawing import Drawing, to_svg
from perdure.tracking.figures import FIGURES, RunData, drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what `arguments` name and print the files; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure plot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["pdf"], dest="formats", help="(pdf)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="(the run's figures/)")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="NAME",
                        help=f"some of {', '.join(FIGURES)}")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        written = plot(options.folder, options.formats, options.out, options.only)
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


def plot(
    run: Path,
    formats: Sequence[str],
    out: Path | None = None,
    names: Sequence[str] = tuple(FIGURES),
) -> list[Path]:
    """Write the figures `names` of `run`, those that it has something to show in.

    Args:
        run: the run's folder.
        formats: of FORMATS.
        out: where to; None is the run's own folder of figures.
        names: of FIGURES.

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
    drawings = {name: _drawn(name, data) for name in names}
    written = []
    for name, (drawing, table) in drawings.items():
        if drawing is None:
            continue
        files = {f"{name}.{kind}": FORMATS[kind](drawing) for kind in formats}
        with writing(out, "--out"):
            out.mkdir(parents=True, exist_ok=True)
            for file, content in {**files, f"{name}.csv": table.encode()}.items():
                write_atomically(out / file, content)
                written.append(out / file)
    if not written:
        raise UserError(f"{run}: has nothing to draw yet of {', '.join(names)}")
    return written


def _data(run: Path) -> RunData:
    folder = RunFolder(run)
    results = folder.read_results()
    if results is None:
        raise UserError(f"{run}: no folder of a run (it has no {folder.results.name})")
    return RunData(results, folder.metrics)


def _drawn(name: str, data: RunData) -> tuple[Drawing | None, str]:
    """The drawing and its numbers.

    Raises:
        UserError: what the run's files hold is not what a run writes.
    """
    try:
        drawing = drawn(name, data)
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
