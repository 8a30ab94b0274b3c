"""Upload runs to Weights & Biases: offline runs, what was left unsent, runs never mirrored.

    perdure sync-wandb outputs/20261122-081146
    perdure sync-wandb outputs/20261122-081146/* --project cl --entity my-team

Nothing is sent twice: the same command again sends what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Sync each folder; exit status 2 when one could not be, the others all the same."""
    parser = argparse.ArgumentParser(
        prog="perdure sync-wandb",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--project", help="of runs that W&B does not have yet (perdure)")
    parser.add_argument("--entity", help="team or user (default: that of the API key)")
    parser.add_argument("--no-artifacts", action="store_true", help="metrics alone")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each run's uploads")
    options = parser.parse_args(arguments)
    from perdure.wandb.sync import sync

    status = 0
    for folder in options.folders:
        try:
            sync(
                folder,
                project=options.project,
                entity=options.entity,
                artifacts=not options.no_artifacts,
                seconds=options.seconds,
            )
        except UserError as error:
            print(f"perdure: {error}", file=sys.stderr)
            status = 2
    return status
