"""Small real runs: two or three tasks of real MNIST, a few dozen steps each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kit import MakeTrainer

from perdure.backbones.mlp import MLP
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import ClassIncremental
from perdure.models.er import ER
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


@pytest.fixture(scope="session")
def few(mnist: Arrays) -> Arrays:
    """The first 900 training and 500 test images of MNIST."""
    train, test = mnist.train, mnist.test
    return replace(
        mnist, train=Split(train.x[:900], train.y[:900]), test=Split(test.x[:500], test.y[:500])
    )


@pytest.fixture
def make_trainer(few: Arrays) -> MakeTrainer:
    """A trainer of ER on few images in 3 tasks; keyword arguments change it."""

    def make(method: Any = ER, **changes: Any) -> Trainer:
        options = {
            key: changes.pop(key) for key in list(changes) if key in Settings.__annotations__
        }
        settings = Settings(**{"batch_size": 10, "seed": 3, "log_every": 7, **options})
        benchmark = changes.pop("benchmark", None) or ClassIncremental(few, 3, seed=3)
        Streams(settings.seed).seed_torch("initialisation")
        model = method(MLP(benchmark.shape, benchmark.n_classes, (20,)))
        parts = {
            "optimizer": lambda params: SGD(params, lr=0.1),
            "buffer": Reservoir(50, 10),
            **changes,
        }
        return Trainer(model, benchmark, settings, **parts)

    return make
