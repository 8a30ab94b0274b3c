"""`check_method` passes what is honest, and names what is not."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.models.agem import AGEM
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.derpp import DERpp
from perdure.models.memory import Memory
from perdure.models.sgd import FineTuning
from perdure.testing import check_method
from perdure.training.optim import SGD


def test_methods_of_ours_pass() -> None:
    check_method(DERpp, {"alpha": 0.5, "beta": 0.5}, shards=(1, 3))
    check_method(AGEM, every=4)
    check_method(
        FineTuning,
        backbone=lambda b: SmallConv(b.shape, b.n_classes, width=4),
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.9),
        settings={"epochs": 1, "batch_size": 20},
        every=3,
    )


class Forgets(FineTuning):
    """What it counts is in no checkpoint."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.count = 0

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.count += 1
        return batch.cross_entropy(self(batch.x)) * (1 + 0.01 * self.count)


class PythonRandom(FineTuning):
    """Draws from a generator that the position does not seed."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) * (1 + 0.1 * random.random())


class BetweenTasks(FineTuning):
    """Forgets between two tasks only."""

    weight = 1.0

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return self.weight * batch.cross_entropy(self(batch.x))

    def after_task(self, data: Data, memory: Memory) -> None:
        self.weight = 0.5


class Impure(FineTuning):
    """Its loss writes a buffer of its own."""

    n: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("n", torch.zeros(()))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.n += 1
        return batch.cross_entropy(self(batch.x))


class TouchesInEvaluation(FineTuning):
    """Evaluating moves its weights."""

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        for p in self.parameters():
            p.mul_(0.999)


class GrowsByWhatWasTrained(FineTuning):
    """Its structure follows from weights, which are loaded after it is made."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.extra = nn.ModuleList()

    def grow(self, task: Task) -> None:
        if task.index:
            width = 1 + int(self.backbone.head.weight.abs().sum() * 1000) % 7
            self.extra.append(nn.Linear(width, 1))


class WithoutGradient(FineTuning):
    """Parts of one batch do not agree whether there is a loss."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if int(batch.y[0]) % 2:
            return StepOutput(None)
        return batch.cross_entropy(self(batch.x))


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (Forgets, AssertionError, r"shards=1, resumed at task 0, phase 0, epoch 0, step 1"),
        (PythonRandom, AssertionError, "differs from the whole run's"),
        (BetweenTasks, AssertionError, r"resumed at task 1, phase 0, epoch 0, step 0"),
        (Impure, AssertionError, "loss changed n; return what belongs"),
        (TouchesInEvaluation, AssertionError, "evaluated after every epoch: .* differs"),
        (GrowsByWhatWasTrained, RuntimeError, "extra"),
        (WithoutGradient, ValueError, "a loss for some parts of a batch and none"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_method_must_not_do(
    method: type[Method], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_method(method)
