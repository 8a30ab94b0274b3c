"""The console command `perdure` and its subcommands; each is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import perdure


class Command(NamedTuple):
    """A subcommand: the module whose `main(arguments)` it is, and what it does in a line."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("perdure.cli.main", "train one network on a sequence of tasks, or a sweep"),
    "evaluate": Command("perdure.cli.evaluate", "measure a checkpoint without training"),
    "branch": Command("perdure.cli.branch", "start several runs from one checkpoint"),
    "orders": Command("perdure.cli.orders", "an easy and a hard class order of a benchmark"),
    "audit": Command("perdure.cli.audit", "check a method for leaks, hidden memory, inexactness"),
    "summarize": Command("perdure.cli.summarize", "mean and spread over the seeds of any runs"),
    "compare": Command("perdure.cli.compare", "whether one method beats another, over seeds"),
    "metrics": Command("perdure.cli.metrics", "compute metrics of runs from what they recorded"),
    "plot": Command("perdure.cli.plot", "draw a run's figures as PDF, SVG or PNG"),
    "published": Command("perdure.cli.published", "published settings and their hyperparameters"),
    "reproduce": Command("perdure.cli.reproduce", "run published settings and compare accuracies"),
    "tune": Command("perdure.cli.tune", "search hyperparameters on one data set for another"),
    "inspect": Command("perdure.cli.inspect", "what is in a checkpoint, and whether it is intact"),
    "prepare-data": Command("perdure.cli.prepare_data", "download a benchmark's data beforehand"),
    "sync-wandb": Command("perdure.cli.sync_wandb", "send runs to W&B, or what is unsent"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: the command line after `perdure`; None is that of the process.

    Returns:
        The exit status.
    """
    # Waiting OpenMP threads must not spin: it makes two threads far slower than one on a busy
    # machine. It counts only where torch is not imported yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(_help(), end="")
        return 0
    if name in ("-sc", "--shell-completion"):
        return _complete(name, rest)
    if name == "--version":
        print(f"perdure {perdure.__version__}")
        return 0
    if name not in COMMANDS:
        accepted = ", ".join(COMMANDS)
        print(f"perdure: {name}: there is no such command; must be {accepted}", file=sys.stderr)
        return 2
    # argparse and Hydra name the program by it.
    sys.argv = [f"perdure {name}", *rest]
    try:
        status = import_module(COMMANDS[name].module).main(rest)
    except BrokenPipeError:  # who read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(status or 0)


def _complete(flag: str, rest: Sequence[str]) -> int:
    """Hydra's completion in a shell (`eval "$(perdure -sc install=bash)"`), for `perdure train`."""
    sys.argv[0] = "perdure"
    line = os.environ.get("COMP_LINE", "").split(" ")
    if "query=" in "".join(rest) and line[1:2] != ["train"]:
        print(" ".join(COMMANDS))
        return 0
    os.environ["COMP_LINE"] = " ".join([line[0], *line[2:]])
    import_module(COMMANDS["train"].module).main([flag, *rest])
    return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "Perdure: continual learning that is fast, and resumes to the bit.\n\n"
        "  perdure COMMAND …          perdure COMMAND --help shows what it takes\n\n"
        + "\n".join(lines)
        + "\n"
    )
