"""A-GEM-R: the projection with a memory that takes the examples of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.models.agem_r import AGEMR
from perdure.models.base import Loss
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

Digits = Callable[..., Batch]


def flat(tensors: Any) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in tensors])


def test_a_step_on_a_memory_of_the_same_task(make: Callable[..., Any], digits: Digits) -> None:
    """The memory has the batch's images with swapped labels, and counts within the first task."""
    method, twin = make(AGEMR, task=0), make(AGEMR, task=0)
    for network in (method, twin):  # so that only 0 and 1 compete
        network.backbone.head.bias.data[[0, 1]] += 8
    batch = digits(0, 10, 0, 1)
    swapped = 1 - batch.y
    buffer, streams = Buffer(Reservoir(10, 10)), Streams(0)
    buffer.add({"raw": batch.raw, "y": swapped}, swapped.numpy(), streams.numpy("remember"))
    step = Step(method, Scale(), buffer, streams, Settings(batch_size=10), torch.device("cpu"))
    position = Position(0, 0, 0, 0)
    step(batch.raw, batch.y, batch.y.numpy(), SGD(method.trainable(), lr=0.5), position)

    x = batch.raw.float() / 255  # as a new image, which the authors' code does not do
    g = flat(torch.autograd.grad(F.cross_entropy(twin(x), batch.y), twin.trainable()))
    r = flat(torch.autograd.grad(F.cross_entropy(twin(x), swapped), twin.trainable()))
    assert g @ r < 0
    expected = flat(twin.trainable()) - 0.5 * (g - (g @ r) / (r @ r) * r)
    torch.testing.assert_close(flat(method.trainable()), expected, rtol=1e-4, atol=1e-6)
    assert buffer.seen == 20, "the examples of the step are offered"


class Watched(AGEMR):
    """Writes down how many examples of its batch's task each draw has."""

    current: list[int]

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.current.append(int(np.isin(replay[0].y.numpy(), list(self.task.classes)).sum()))
        return super().loss(batch, *replay)


def test_the_memory_has_examples_of_the_current_task(make_trainer: MakeTrainer) -> None:
    Watched.current = []
    trainer = make_trainer(Watched)
    trainer.fit()
    assert Watched.current[0] == 0, "empty at the first step"
    assert all(Watched.current[1:10])


def test_the_contract() -> None:
    check_method(AGEMR)
