"""Train a network on a sequence of tasks: `python train.py --help` shows what can be chosen."""

from __future__ import annotations

import os

# Waiting OpenMP threads must not spin: it makes two threads far slower than one on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from perdure.cli.main import main

if __name__ == "__main__":
    main()
