"""Runs `train.py` with one command line after another, each in a fork of this process.

A fork has the program's imports already, which most of a refused command's time goes to. Each is a
real process with arguments, folder, environment and exit status of its own. Started by `process`.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any

import perdure.cli.main  # noqa: F401

_SECONDS = 300


def run(job: dict[str, Any]) -> int:
    """What the interpreter does with a script; returns the exit status."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, path in ((0, os.devnull), (1, job["stdout"]), (2, job["stderr"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags), number)
    sys.argv = [job["script"], *job["arguments"]]
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Read a job a line, and answer each with its exit status."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(_SECONDS)
            status = run(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, ended = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(ended), flush=True)


if __name__ == "__main__":
    main()
