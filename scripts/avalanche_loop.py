"""Replay in Avalanche 0.6 (https://avalanche.continualai.org), for `benchmark.py --avalanche`."""
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import warnings
from typing import Any

import torch
from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from plain_loop import mlp
from reference_loop import GrayImages
from torch import Tensor


class AvalancheLoop:
    """`Naive` with `ReplayPlugin`, accuracy as the only metric, no logger.

    Avalanche trains an experience at a time and fills its buffer at the experience's end, so each
    turn is an experience of its own.

    Args:
        train: uint8 [N, H, W] and int64 [N].
        test: the same.
        batch_size: examples a step, replayed ones likewise, and a forward pass at evaluation.
        lr: learning rate.
        buffer_size: examples kept.
        turns: how often `train` will be called,
        steps: and for how many steps.
    """

    def __init__(
        self,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        batch_size: int,
        lr: float,
        buffer_size: int,
        turns: int,
        steps: int,
    ) -> None:
        warnings.filterwarnings("ignore", module="avalanche")
        x, y = train
        rows = torch.arange(turns * steps * batch_size).remainder(len(y)).view(turns, -1)
        benchmark = benchmark_from_datasets(
            train=[_dataset(x[part], y[part]) for part in rows], test=[_dataset(*test)]
        )
        self._experiences = iter(benchmark.train_stream)
        self._test_stream = benchmark.test_stream
        net = mlp()
        self._strategy = Naive(
            model=net,
            optimizer=torch.optim.SGD(net.parameters(), lr=lr),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=batch_size,
            eval_mb_size=batch_size,
            plugins=[ReplayPlugin(mem_size=buffer_size, batch_size=batch_size)],
            evaluator=EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
        )

    def train(self, steps: int) -> None:
        """The next turn."""
        self._strategy.train(next(self._experiences))

    def evaluate(self) -> float:
        """Accuracy on the test data."""
        (accuracy,) = self._strategy.eval(self._test_stream).values()
        return float(accuracy)


class _Images(GrayImages):
    """With the labels under the name that Avalanche reads."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()


def _dataset(x: Tensor, y: Tensor) -> Any:
    return as_classification_dataset(_Images(x, y))
