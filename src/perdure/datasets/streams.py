"""Data loading: the shuffled batches of one task, gathered from arrays on the device.

The order is a function of (seed, task, epoch), so a resumed run starts at any step without drawing
what came before it. A stream without boundaries keeps its own order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perdure.datasets.arrays import Split
from perdure.randomness import Streams

_BLOCK_BYTES = 8 * 2**20
"""Of examples gathered at once: larger blocks are fresh memory each time, and page faults cost more
than the copies."""


@dataclass(frozen=True)
class Length:
    """How long a task is trained.

    Attributes:
        steps_per_epoch: optimizer steps of a whole epoch.
        steps: of the task.
        epochs: of the task; the last one may end early.
    """

    steps_per_epoch: int
    steps: int
    epochs: int


def length(
    n: int, batch_size: int, epochs: int = 1, iterations: int | None = None, least: int = 1
) -> Length:
    """The length of a task of `n` examples; the arguments are those of `TaskStream`."""
    if n == 0:
        return Length(0, 0, 0)
    steps_per_epoch = -(-n // batch_size)
    if steps_per_epoch > 1 and 0 < n % batch_size < least:
        steps_per_epoch -= 1
    steps = iterations or epochs * steps_per_epoch
    return Length(steps_per_epoch, steps, -(-steps // steps_per_epoch))


class TaskStream:
    """The training batches of a task.

    Args:
        split: the task's training examples; their order is kept where it is `ordered`.
        batch_size: examples a step; an epoch's last batch holds what is left.
        streams: the run's random streams.
        task: number of the task.
        epochs: passes over the task; or
        iterations: steps for the task, over as many passes as that takes.
        least: fewer examples than this are no batch: where they are left, the last batch has them
            too.
        first_epoch: number of the first epoch, which keys the order.
        class_balanced: whether an epoch has as many examples of each class as of the rarest one,
            drawn anew each time.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        streams: Streams,
        task: int,
        epochs: int = 1,
        iterations: int | None = None,
        least: int = 1,
        first_epoch: int = 0,
        class_balanced: bool = False,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.streams = streams
        self.task = task
        self._labels = split.y.cpu().numpy()
        self._by_class: list[np.ndarray] = []
        self.n = len(split.y)
        if class_balanced and self.n:
            self._by_class = [np.flatnonzero(self._labels == c) for c in np.unique(self._labels)]
            self.n = len(self._by_class) * min(map(len, self._by_class))
        found = length(self.n, batch_size, epochs, iterations, least)
        self.steps_per_epoch, self.steps = found.steps_per_epoch, found.steps
        self.epochs = found.epochs
        self.first_epoch = first_epoch

    @property
    def end(self) -> int:
        """Number of the epoch after the last one."""
        return self.first_epoch + self.epochs

    def steps_of(self, epoch: int) -> int:
        """Steps of `epoch`; a run by iterations may end within its last epoch."""
        done = (epoch - self.first_epoch) * self.steps_per_epoch
        return min(self.steps_per_epoch, self.steps - done)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """The batches of `epoch` from step `start` on: uint8 [B, C, H, W], int64 [B], and the
        labels once more on the host, for the buffer's decisions.

        The examples are gathered in blocks of up to 8 MB, so that a step is only a slice, and no
        step copies from the host.
        """
        order = self._order(epoch)
        rows = torch.from_numpy(order).to(self.split.x.device)
        steps, size = self.steps_of(epoch), self.batch_size
        example_bytes = max(1, self.split.x[0].numel())
        block = max(1, _BLOCK_BYTES // (example_bytes * size))
        for first in range(start, steps, block):
            last = min(first + block, steps)
            begin, end = first * size, self._end_of(last - 1)
            sizes = [size] * (last - first - 1) + [end - (last - 1) * size]
            part = rows[begin:end]
            x = self.split.x.index_select(0, part).split(sizes)
            y = self.split.y.index_select(0, part).split(sizes)
            labels = np.split(self._labels[order[begin:end]], np.cumsum(sizes[:-1]))
            yield from zip(x, y, labels, strict=True)

    def _order(self, epoch: int) -> np.ndarray:
        """The examples of `epoch` in their order, int64 [n]."""
        generator = self.streams.numpy("order", task=self.task, epoch=epoch)
        if not self._by_class:
            return np.arange(self.n) if self.split.ordered else generator.permutation(self.n)
        each = self.n // len(self._by_class)
        rows = [generator.choice(own, each, replace=False) for own in self._by_class]
        return generator.permutation(np.concatenate(rows))

    def _end_of(self, step: int) -> int:
        """Examples of an epoch up to and with `step`; the last one takes all that are left."""
        return self.n if step == self.steps_per_epoch - 1 else (step + 1) * self.batch_size
