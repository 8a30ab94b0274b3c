"""Write report.html about many runs: headline, figures, costs, protocol, warnings.

    perdure report outputs/my-sweep
    perdure report outputs/sweep-1 'outputs/2026*' --by model buffer.size --out paper/report

One self-contained page, with figures/ beside it: in the sweep's folder, or in --out. A sweep writes
it at its end; this writes it at any time, of any set of runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.analysis.runs import read
from perdure.analysis.sweep_report import write_report
from perdure.errors import UserError
from perdure.io.files import writing


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and print its path; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER",
                        help="runs, folders with runs below them, or globs of either")  # fmt: skip
    parser.add_argument("--by", nargs="+", metavar="KEY",
                        help="(whatever varies but seeds and class orders)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="(the one FOLDER)")
    options = parser.parse_args(arguments)
    try:
        out = _place(options.folders) if options.out is None else options.out
        runs = read(options.folders)
        with writing(out, "--out"):
            print(write_report(out, runs, options.by))
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    return 0


def _place(folders: Sequence[str]) -> Path:
    if len(folders) != 1 or not Path(folders[0]).is_dir():
        raise UserError("--out: must name a folder for the report of several folders")
    return Path(folders[0])
