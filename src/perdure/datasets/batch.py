"""A batch as a method sees it: examples, labels, and what was remembered along with them."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Transform(Protocol):
    """Turns raw examples into network inputs; see `perdure.datasets.transforms`."""

    def __call__(self, raw: Tensor, augmentation: Tensor | None) -> Tensor: ...


class Batch:
    """Examples with labels; `x` is made from the raw bytes when it is first asked for.

    Two batches add up to their concatenation, and since the raw bytes are concatenated, one
    transform serves both. A batch that is empty on every rank is falsy (a replay from a still empty
    buffer); a part of a few examples may hold none and is truthy all the same, so that a method
    that asks does the same on every part.

    Attributes:
        raw: uint8 [B, C, H, W], as stored.
        y: int64 [B].
        total: examples in the *global* batch of which this one may be a part; every mean divides
            by it, so that the parts' losses add up to the loss of the whole.
        all_y: int64 [total], labels of the global batch.
        memory: what the method remembered with each example, `batch["logits"]`: [B, …].
    """

    __slots__ = ("_x", "all_y", "augmentation", "memory", "raw", "total", "transform", "y")

    def __init__(
        self,
        raw: Tensor,
        y: Tensor,
        transform: Transform,
        augmentation: Tensor | None = None,
        memory: dict[str, Tensor] | None = None,
        total: int | None = None,
        all_y: Tensor | None = None,
    ) -> None:
        self.raw = raw
        self.y = y
        self.transform = transform
        self.augmentation = augmentation
        self.memory = memory or {}
        self.total = raw.shape[0] if total is None else total
        self.all_y = y if all_y is None else all_y
        self._x: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """The network's input, float32 [B, C, H, W], augmented and normalised."""
        if self._x is None:
            self._x = self.transform(self.raw, self.augmentation)
        return self._x

    def __len__(self) -> int:
        return self.raw.shape[0]

    def __bool__(self) -> bool:
        return self.total > 0

    def __getitem__(self, field: str) -> Tensor:
        return self.memory[field]

    def part(self, start: int, stop: int) -> Batch:
        """Examples `start` … `stop` as a part of this batch: its means still divide by `total`."""
        return Batch(
            self.raw[start:stop],
            self.y[start:stop],
            self.transform,
            None if self.augmentation is None else self.augmentation[start:stop],
            {key: value[start:stop] for key, value in self.memory.items()},
            self.total,
            self.all_y,
        )

    def __add__(self, other: Batch) -> Batch:
        """The examples of both; `memory` fields are kept where both have them."""
        if not other.total:
            return self
        augmentation = None
        if self.augmentation is not None and other.augmentation is not None:
            augmentation = torch.cat((self.augmentation, other.augmentation))
        parts = self.all_y is not self.y or other.all_y is not other.y
        return Batch(
            torch.cat((self.raw, other.raw)),
            torch.cat((self.y, other.y)),
            self.transform,
            augmentation,
            {
                key: torch.cat((value, other.memory[key]))
                for key, value in self.memory.items()
                if key in other.memory
            },
            self.total + other.total,
            torch.cat((self.all_y, other.all_y)) if parts else None,
        )

    def mean(self, per_example: Tensor) -> Tensor:
        """The mean over the global batch of a value per example, [B] → []."""
        return per_example.sum() / self.total

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy of `logits` [B, classes] against the labels, over the global batch."""
        return F.cross_entropy(logits, self.y, reduction="sum") / self.total

    def mse(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared difference over all elements of the global batch, [B, …] twice → []."""
        elements = prediction.shape[1:].numel() * self.total
        return F.mse_loss(prediction, target, reduction="sum") / elements
