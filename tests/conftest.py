"""Real MNIST for every test, whole and in small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.sources import MNIST

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
