"""Data loading: the shuffled batches of one task, gathered from arrays on the device.

The order is a function of (seed, task, epoch), so a resumed run starts at any step without drawing
what came before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from perdure.datasets.arrays import Split
from perdure.randomness import Streams

_BLOCK_BYTES = 64 * 2**20


class TaskStream:
    """The training batches of a task.

    Args:
        split: the task's training examples.
        batch_size: examples a step; an epoch's last batch holds what is left.
        streams: the run's random streams.
        task: number of the task.
        epochs: passes over the task; or
        iterations: steps for the task, over as many passes as that takes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        streams: Streams,
        task: int,
        epochs: int = 1,
        iterations: int | None = None,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.streams = streams
        self.task = task
        self.n = len(split.y)
        self._labels = split.y.cpu().numpy()
        self.steps_per_epoch = -(-self.n // batch_size)
        self.steps = iterations or epochs * self.steps_per_epoch
        self.epochs = -(-self.steps // self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """Steps of `epoch`; a run by iterations may end within its last epoch."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        """The batches of `epoch` from step `start` on: uint8 [B, C, H, W], int64 [B], and the
        labels once more on the host, for the buffer's decisions.

        The examples are gathered in blocks of up to 64 MB, so that a step is only a slice, and no
        step copies from the host.
        """
        order = self.streams.numpy("order", task=self.task, epoch=epoch).permutation(self.n)
        rows = torch.from_numpy(order).to(self.split.x.device)
        stop = min(self.steps_of(epoch) * self.batch_size, self.n)
        example_bytes = max(1, self.split.x[0].numel())
        block = max(1, _BLOCK_BYTES // (example_bytes * self.batch_size)) * self.batch_size
        for first in range(start * self.batch_size, stop, block):
            part = rows[first : min(first + block, stop)]
            x = self.split.x.index_select(0, part).split(self.batch_size)
            y = self.split.y.index_select(0, part).split(self.batch_size)
            labels = self._labels[order[first : first + len(part)]]
            for i, (raw, label) in enumerate(zip(x, y, strict=True)):
                yield raw, label, labels[i * self.batch_size : (i + 1) * self.batch_size]
