"""What a buffer's policy is told of examples: features, losses, gradients of the network as it is.

All in evaluation mode and without random numbers, and on every process for the whole batch: so all
processes know the same, to the bit, whatever the number of shards. Losses and cosines come to the
host, which waits for the device once a step; a policy that needs nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.datasets.batch import Batch, Transform, join
from perdure.models.base import Method
from perdure.models.per_example import (
    EachGradient,
    gradients_of_each,
    negative_log_likelihood,
)
from perdure.models.teacher import frozen

_GRADIENT_ELEMENTS = 2**26
"""Numbers of the gradients of offered examples that are there at a time."""
_SMALLEST = 1e-12
"""Length of a gradient that is taken for 0."""


class Information:
    """What the policy of `buffer` needs.

    Args:
        method: its `forward` gives the scores, its trainable parameters the gradients.
        buffer: the buffer.
        transform: raw bytes to inputs.
        autocast: the precision in which losses are computed.
    """

    def __init__(
        self,
        method: Method,
        buffer: Buffer,
        transform: Transform,
        autocast: AbstractContextManager[Any],
    ) -> None:
        self.method = method
        self.buffer = buffer
        self.transform = transform
        self._needs = buffer.policy.needs
        self._autocast = autocast
        self._losses = np.zeros(0)

    def before_update(self, batches: Sequence[Batch]) -> None:
        """The weights are about to be updated on the current batch and its replay draws.

        The losses are those before the update, of the examples as they are trained on, augmented.
        """
        if "losses" not in self._needs:
            return
        found = [batch for batch in batches if len(batch)]
        sizes = [len(batch) for batch in found]
        with frozen(self.method), self._autocast:
            logits = self.method(join(found).x).float().split(sizes)
        each = [batch.losses(part) for batch, part in zip(found, logits, strict=True)]
        on_host = torch.cat(each).cpu().double().numpy()
        self._losses, *replayed = np.split(on_host, np.cumsum(sizes)[:-1])
        for batch, losses in zip(found[1:], replayed, strict=True):
            self.buffer.policy.replayed(batch["index"].cpu().numpy(), losses)

    def of_step(self, raw: Tensor, y: Tensor) -> dict[str, Any]:
        """What is known of the batch that was trained on, uint8 [B, C, H, W] and int64 [B]."""
        known: dict[str, Callable[[], Any]] = {
            "losses": lambda: self._losses,
            "gradients": lambda: self._gradients(raw, y),
        }
        return {name: known[name]() for name in self._needs}

    def of_task(
        self, raw: Tensor, y: Tensor, batches: Callable[[], Iterable[Batch]]
    ) -> dict[str, Any]:
        """What is known of all examples of a task that has been trained; `batches` gives them."""
        known: dict[str, Callable[[], Any]] = {
            "features": lambda: self._of_all(batches, self._features),
            "losses": lambda: self._of_all(batches, self._loss).cpu().double().numpy(),
            "gradients": lambda: self._gradients(raw, y),
        }
        return {name: known[name]() for name in self._needs}

    def _of_all(
        self, batches: Callable[[], Iterable[Batch]], function: Callable[[Batch], Tensor]
    ) -> Tensor:
        with frozen(self.method):
            return torch.cat([function(batch) for batch in batches()])

    def _features(self, batch: Batch) -> Tensor:
        return self.method.backbone.features(batch.x)

    def _loss(self, batch: Batch) -> Tensor:
        with self._autocast:
            logits = self.method(batch.x)
        return batch.losses(logits.float())

    def _gradients(self, raw: Tensor, y: Tensor) -> NetworkGradients:
        return NetworkGradients(self.method, self.transform, self.buffer, raw, y)


class NetworkGradients:
    """Gradients of the cross-entropy of each of some examples, without augmentation.

    Over all scores that the network gives, in full precision.

    Args:
        method: whose trainable parameters they are of, as they are when cosines are asked for.
        transform: raw bytes to inputs.
        buffer: where the examples are that they are compared with.
        raw: uint8 [B, C, H, W].
        y: int64 [B].
    """

    def __init__(
        self, method: Method, transform: Transform, buffer: Buffer, raw: Tensor, y: Tensor
    ) -> None:
        self._method = method
        self._transform = transform
        self._buffer = buffer
        self._raw = raw
        self._y = y

    def cosines(self, slots: np.ndarray) -> np.ndarray:
        """Those with the gradients of the examples in `slots`, int64 [n]; float64 [B, n]."""
        device = self._buffer.device
        held = self._buffer.select(torch.from_numpy(slots).to(device, non_blocking=True))
        n = max(1, _GRADIENT_ELEMENTS // sum(p.numel() for p in self._method.trainable()))
        with frozen(self._method):
            stored = self._each(held["raw"], held["y"])
            parts = zip(self._raw.split(n), self._y.split(n), strict=True)
            found = torch.cat([_cosines(self._each(raw, y), stored) for raw, y in parts])
        return found.cpu().double().numpy()

    def _each(self, raw: Tensor, y: Tensor) -> EachGradient:
        x = self._transform(raw, None)
        return gradients_of_each(self._method, x, y, negative_log_likelihood)


def _cosines(a: EachGradient, b: EachGradient) -> Tensor:
    """[B, B']; 0 where a gradient is."""
    lengths, others = (each.squares().sqrt().clamp(min=_SMALLEST) for each in (a, b))
    return a.products(b) / lengths[:, None] / others
