"""Real MNIST for every test, whole and in small; a W&B server; the limit of a χ² test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from wandb_server.fixtures import wandb_server

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.sources import MNIST

__all__ = ["wandb_server"]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist() -> Arrays:
    """The embedded data set, 60,000 + 10,000 images."""
    return MNIST().load(Path())


@pytest.fixture(scope="session")
def tiny(mnist: Arrays) -> Arrays:
    """The first 60 training and 20 test images of each digit, in the data set's order."""
    return Arrays(_first(mnist.train, 60), _first(mnist.test, 20), mnist.classes)


def _first(split: Split, n: int) -> Split:
    rows = torch.cat([(split.y == digit).nonzero().squeeze(1)[:n] for digit in range(10)])
    rows = rows.sort().values
    return Split(split.x[rows], split.y[rows])


@pytest.fixture(scope="session")
def chi_square_limit() -> Callable[[int], float]:
    """What a χ² of so many degrees of freedom exceeds with probability 10⁻⁵.

    Wilson & Hilferty 1931, "The distribution of chi-square": (χ²/k)^⅓ is nearly normal with mean
    1 − 2/(9k) and variance 2/(9k); 4.2649 is the normal quantile.
    """
    return lambda k: k * (1 - 2 / (9 * k) + 4.2649 * (2 / (9 * k)) ** 0.5) ** 3
