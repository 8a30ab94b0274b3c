"""A small network on real digits, and a way to make methods around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.models.base import Method, Task


@pytest.fixture(scope="session")
def digits(tiny: Arrays) -> Callable[..., Batch]:
    """Batches of real digits: rows `start` to `stop`, of all classes or of those listed."""

    def take(start: int, stop: int, *classes: int, **stored: torch.Tensor) -> Batch:
        split = tiny.train
        rows = torch.isin(split.y, torch.tensor(classes or range(10))).nonzero().squeeze(1)
        rows = rows[start:stop]
        return Batch(split.x[rows], split.y[rows], Scale(), None, stored)

    return take


@pytest.fixture
def make() -> Callable[..., Any]:
    """A method around 784-12-10, the same weights every time, in the second of five tasks."""

    def method(kind: type[Method], task: int = 1, **options: Any) -> Any:
        torch.manual_seed(0)
        made = kind(MLP((1, 28, 28), 10, (12,)), **options)
        made.task = Task(task, range(2 * task, 2 * task + 2), range(2 * task + 2))
        return made

    return method
