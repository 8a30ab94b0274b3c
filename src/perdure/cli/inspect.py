"""What is in a checkpoint, where it stands, and whether it is intact.

    perdure inspect FILE|FOLDER [--json]

FILE is any file that `torch.save` wrote; FOLDER is a run's, or that of its checkpoints.
Exit status: 0 intact, 1 damaged, 2 not readable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the file or folder holds; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    from perdure.cli.checkpoint_contents import show  # torch is imported only now

    return show(options.path, options.json)
