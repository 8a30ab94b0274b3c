"""Methods and buffer policies that are not what they say, one for each check of the audit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.er import ER
from perdure.models.memory import Memory
from perdure.models.phase import MAIN, Phase
from perdure.models.sgd import FineTuning


class Votes(ER):
    """Adds to each example's scores the mean of those that are measured beside it."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores = self(x)
        return scores + 5 * scores.mean(0)


class Centers(ER):
    """Measures in training mode where a batch has several examples, as forgotten `eval` does."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores = self(x)
        return scores - scores.amax(0) if len(x) > 1 else scores


class CountsCalls(ER):
    """Knows the tasks by the order in which they are measured."""

    calls = 0

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        self.calls = 0

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores = self(x)
        first = 2 * (self.calls // 2 % 5)
        self.calls += 1
        scores[:, first : first + 2] += 100
        return scores


class Peeks(FineTuning):
    """Learns less because of the classes of a later task, which `phases` is told early."""

    def phases(self, task: Task) -> Sequence[Phase]:
        self.last = task.classes.start
        return (MAIN,)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) * (1 + 0.1 * self.last)


class LooksAhead(FineTuning):
    """Goes through a whole stream before it learns from it."""

    def before_task(self, data: Data) -> None:
        self.level = torch.stack([batch.x.mean() for batch in data(50)]).mean()

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) * (1 + self.level)


class CountsTasks(FineTuning):
    """Learns the slower the more tasks there will be."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.n = 0

    def phases(self, task: Task) -> Sequence[Phase]:
        self.n = max(self.n, task.index + 1)
        return (MAIN,)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) / self.n


class ReadsClasses(FineTuning):
    """Weights the loss by the number of all classes."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) / self.backbone.n_classes


class LearnsWhenMeasured(FineTuning):
    """Takes a statistic of test examples into training."""

    level: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.register_buffer("level", torch.ones(()))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        self.level.copy_(x.mean())
        return self(x)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) * (1 + self.level)


class Hoards(FineTuning):
    """Keeps each task's last batch for itself."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.kept: list[Tensor] = []

    def after_task(self, data: Data, memory: Memory) -> None:
        self.kept.append(list(data(10))[-1].x)


class HoardsInTheClass(FineTuning):
    """Keeps single examples where no state dict looks."""

    kept: dict[int, Tensor] = {}  # noqa: RUF012

    def after_task(self, data: Data, memory: Memory) -> None:
        self.kept[self.task.index] = next(iter(data(1))).raw[0]


class HoardsInABuffer(FineTuning):
    """Keeps examples as part of its state."""

    examples: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.register_buffer("examples", torch.zeros(6, 784))

    def after_task(self, data: Data, memory: Memory) -> None:
        self.examples.copy_(next(iter(data(6))).x.flatten(1))


class TooLarge(Reservoir):
    """A batch more than its capacity."""

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size + batch_size, batch_size)


class Inverts(ER):
    """Puts into the memory what was never offered."""

    def after_task(self, data: Data, memory: Memory) -> None:
        if len(memory):
            memory.rewrite(torch.tensor([0]), {"raw": 255 - memory.split()[0][:1]})


class Thaws(FineTuning):
    """Says that its first layer is frozen, and trains it."""

    def frozen_state(self) -> dict[str, Tensor]:
        return {"first": next(self.backbone.parameters()).detach()}


class Drops(FineTuning):
    """Says of a part that it is frozen, and later no more."""

    def frozen_state(self) -> dict[str, Tensor]:
        return {"first": torch.zeros(3)} if self.task.index == 0 else {}


class Impure(FineTuning):
    """Its loss counts."""

    n: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.register_buffer("n", torch.zeros(()))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.n += 1
        return batch.cross_entropy(self(batch.x))


class AlwaysDecays(FineTuning):
    """Says that it is SGD with a strength of 0, and shrinks the weights all the same."""

    base = "sgd"
    zero_strength = ("strength=0",)

    def __init__(self, backbone: Backbone, strength: float) -> None:
        super().__init__(backbone)
        self.strength = strength

    def penalty(self) -> Tensor | None:
        norms: Any = sum(p.square().sum() for p in self.trainable())
        return (self.strength + 1e-3) * norms


class Powerless(AlwaysDecays):
    """Its strength changes nothing."""

    def penalty(self) -> Tensor | None:
        return None


class MovesWhenMeasured(FineTuning):
    """Measuring shrinks the weights."""

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        for p in self.parameters():
            p.mul_(0.999)


class Forgets(FineTuning):
    """What it counts is in no checkpoint."""

    count = 0

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.count += 1
        return batch.cross_entropy(self(batch.x)) * (1 + 0.01 * self.count)


class MeanOfAPart(ER):
    """Takes the mean over its part of the batch."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        both = batch + replay[0]
        return F.cross_entropy(self(both.x), both.y)


class KnowsItsRank(FineTuning):
    """Weights the loss by the process."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)) * (1 + int(os.environ.get("RANK", "0")))


class Broken(FineTuning):
    """Fails in its own code when it is measured in small batches."""

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return self(x.view(32, 1, 28, 28)) if len(x) == 3 else self(x)


class Honest(Method):
    """Linear readout of the labels seen, and nothing wrong with it."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))
