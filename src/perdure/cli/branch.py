"""Branch: several runs from one exact checkpoint, as a sweep.

    perdure branch outputs/20261122-081146@task-2 model=derpp,er-ace
    perdure branch outputs/20261122-081146@task-0 seed=0,1,2 hydra.launcher.n_jobs=2
    perdure branch CHECKPOINT.pt optimizer.lr=0.01,0.03 hydra/launcher=slurm

Every branch is a fork (docs/forks.md): whatever is not typed stays as it was, what differs is
listed when it starts, and its results name the checkpoint. RUN@task-2 is the checkpoint of the end
of task 2, which a run with checkpoint.save=true keeps; a file, `latest` and remote references are
accepted, too. Branches run as processes of this machine, one a core, unless a launcher is named.
Typed again with checkpoint.resume=auto and hydra.sweep.dir=FOLDER, it runs what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from perdure.cli import main as program
from perdure.config.overrides import override, parse
from perdure.errors import UserError

_LAUNCHER = "hydra/launcher"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the branches that `arguments` name; ends the process as a sweep does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"--help", "-h"} & set(words):
        print(__doc__.strip())
        return 0 if words else 2
    with program.worded_exit(), program.explained(words):
        sweep = sweep_of(words)
        sys.argv = ["perdure train", *sweep]  # what the sweep says that continues it
        program.Program()(sweep)
    return 0


def sweep_of(words: Sequence[str]) -> list[str]:
    """The words of `perdure train` that start the branches.

    Args:
        words: the reference of the checkpoint, anywhere, and flags and overrides.

    Raises:
        UserError: there is no reference, or more than one.
    """
    references = [word for word in words if not word.startswith("-") and "=" not in word]
    if len(references) != 1:
        named = " and ".join(references) or "nothing"
        raise UserError(f"branch: must name one checkpoint, as RUN@task-2 (now {named})")
    rest = [word for word in words if word not in references]
    has_launcher = any(parse(word).key == _LAUNCHER for word in rest if not word.startswith("-"))
    return [
        "-m",
        *([] if has_launcher else [f"{_LAUNCHER}=local"]),
        override("checkpoint.load", references[0]),
        "checkpoint.fork=true",
        *(word for word in rest if word not in ("-m", "--multirun")),
    ]
