"""What the tests of EWC, MAS and RWalk share: data as hooks get it, a run, gradients by a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from kit import MakeTrainer
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Linear
from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.models.base import Method
from perdure.models.memory import Memory
from perdure.models.sgd import FineTuning

NO_MEMORY = Memory(None, Scale())


def data_of(batch: Batch) -> Callable[[int], Iterator[Batch]]:
    """What the trainer hands to `after_task`: the examples, n at a time."""

    def data(n: int) -> Iterator[Batch]:
        for raw, y in zip(batch.raw.split(n), batch.y.split(n), strict=True):
            yield Batch(raw, y, batch.transform)

    return data


def gradients(
    network: Backbone, batch: Batch, scalar: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """The gradient [P] of a scalar of the logits [C] and the label, an example at a time."""
    network.eval()
    for x, y in zip(batch.x, batch.y, strict=True):
        parts = torch.autograd.grad(scalar(network(x[None])[0], y), list(network.parameters()))
        yield torch.cat([part.flatten() for part in parts])


def move(method: Method, seed: int, by: float = 0.1) -> None:
    """Random steps of the weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(by * torch.randn(p.shape, generator=generator))


def growing(benchmark: Any) -> Backbone:
    """A small network whose head appends the classes of each task."""
    network = MLP(benchmark.shape, benchmark.n_classes, (16,))
    network.head = Linear(16, benchmark.n_classes, growing=True)
    return network


def end_of(make_trainer: MakeTrainer, method: Callable[[Backbone], Method]) -> list[Tensor]:
    """The weights at the end of a run on three tasks."""
    trainer = make_trainer(method, buffer=None, iterations=10)
    trainer.fit()
    return [p.detach() for p in trainer.method.backbone.parameters()]


def require_sgd(make_trainer: MakeTrainer, zero: Any, some: Any) -> None:
    """`zero` ends as fine-tuning does, to the bit, and `some` does not."""
    expected = end_of(make_trainer, FineTuning)
    found = end_of(make_trainer, zero)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    other = end_of(make_trainer, some)
    assert not any(torch.equal(a, b) for a, b in zip(expected, other, strict=True))
