"""Compare the ends of two runs bit by bit: weights, optimizer, buffer, results and metrics.

python scripts/compare_ends.py RUN OTHER

Both need `checkpoint.save=true`. Exit status 1, and what differs, where anything but clocks does;
2, and a sentence, where one of them has no end to compare.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crash_test import compare

from perdure.errors import UserError
from perdure.run.folder import RunFolder


def require_end(path: Path) -> None:
    """Refuse a folder without the files that the end of a run is told by.

    Raises:
        UserError: says what is missing, and what to do.
    """
    folder = RunFolder(path)
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder")
    results = folder.read_results()
    if results is None:
        raise UserError(f"{path}: is no folder of a run (it has no {folder.results.name})")
    if results.get("status") != "finished":
        raise UserError(
            f"{path}: the run there is not finished (it is {results.get('status')}); resume it "
            f"with checkpoint.load={path} first"
        )
    if not folder.metrics.is_file():
        raise UserError(f"{path}: damaged ({folder.metrics.name} is missing)")
    if not any(folder.checkpoints.glob("*.pt")):
        raise UserError(f"{path}: has no checkpoint of a task; run it with checkpoint.save=true")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args(arguments)
    try:
        for path in (options.run, options.other):
            require_end(path)
        found = compare(options.run, options.other)
    except (UserError, OSError, ValueError) as error:
        print(f"compare_ends: {error}", file=sys.stderr)
        return 2
    for where in found[:10]:
        print(where)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
