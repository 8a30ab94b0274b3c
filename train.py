"""Train a network on a sequence of tasks: `python train.py --help` tells what can be chosen."""

from __future__ import annotations

import os

# Waiting OpenMP threads must not spin: it makes two threads far slower than one on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
from omegaconf import DictConfig

from perdure.cli.main import command_line, job


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """One run; returns the figure that a hyperparameter search maximises."""
    return job(config)


if __name__ == "__main__":
    command_line(main)
