"""Real MNIST for every test, whole and in small; short runs; a W&B server; limits of χ² tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import MakeTrainer
from wandb_server.fixtures import wandb_server

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.sources import MNIST
from perdure.distributed.process_group import Ranks
from perdure.models.er import ER
from perdure.randomness import Streams
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.recording import Launch, Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

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
def few(mnist: Arrays) -> Arrays:
    """The first 900 training and 500 test images of MNIST."""
    train, test = mnist.train, mnist.test
    return replace(
        mnist, train=Split(train.x[:900], train.y[:900]), test=Split(test.x[:500], test.y[:500])
    )


NAMES = {field.name for field in fields(Settings)}


@pytest.fixture
def make_trainer(few: Arrays) -> MakeTrainer:
    """A trainer of ER on few images in 3 tasks; keyword arguments change it."""

    def make(method: Any = ER, **changes: Any) -> Trainer:
        options = {key: changes.pop(key) for key in list(changes) if key in NAMES}
        settings = Settings(**{"batch_size": 10, "seed": 3, "log_every": 7, **options})
        benchmark = changes.pop("benchmark", None) or ClassIncremental(few, 3, seed=3)
        Streams(settings.seed).seed_torch("initialisation")
        model = method(MLP(benchmark.shape, benchmark.n_classes, (20,)))
        optimizer = changes.pop("optimizer", lambda params: SGD(params, lr=0.1))
        return Trainer(
            model,
            benchmark,
            settings,
            OptimizerFactory(optimizer, changes.pop("scheduler", None)),
            changes.pop("buffer", Buffer(Reservoir(50, 10))),
            changes.pop("transform", None),
            launch=Launch(ranks=changes.pop("ranks", Ranks())),
            recording=Recording(**changes),
        )

    return make


@pytest.fixture(scope="session")
def chi_square_limit() -> Callable[[int], float]:
    """What a χ² of so many degrees of freedom exceeds with probability 10⁻⁵.

    Wilson & Hilferty 1931, "The distribution of chi-square": (χ²/k)^⅓ is nearly normal with mean
    1 − 2/(9k) and variance 2/(9k); 4.2649 is the normal quantile.
    """
    return lambda k: k * (1 - 2 / (9 * k) + 4.2649 * (2 / (9 * k)) ** 0.5) ** 3


# --- tiers ----------------------------------------------------------------------------------------

_STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "os.exec"}
_running: list[pytest.Item] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of tests/end_to_end/ is of the tier `process`."""
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker(pytest.mark.process)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def _require_tier(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a test that starts a process and is not of the tier for it; `git` is a tool of both."""
    if event not in _STARTS or not _running or _running[-1].get_closest_marker("process"):
        return
    if event == "subprocess.Popen" and str(arguments[0]).rpartition("/")[2] == "git":
        return
    raise AssertionError(f"{_running[-1].nodeid} starts a process: mark it with `process`")


sys.addaudithook(_require_tier)
