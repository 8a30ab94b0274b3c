"""A batch as a method sees it: examples, labels, stored fields; cross-entropy and MSE over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.datasets.loss_scope import (
    Scope,
    Scopes,
    columns,
    joined,
    part_of,
    positions,
    scope_of,
)


class Transform(Protocol):
    """Raw examples to network inputs; see `perdure.datasets.transforms`."""

    def __call__(self, raw: Tensor, augmentation: Tensor | None) -> Tensor: ...


class Batch:
    """Examples with labels; `x` is made from the raw bytes when it is first read.

    Two batches add up to their concatenation, and since the raw bytes are concatenated, one
    transform serves both. A batch that is empty on every rank is falsy (a replay from a still empty
    buffer); a part of a few examples may hold none and is truthy all the same, so that `if past:`
    in a method takes the same branch on every part.

    Attributes:
        raw: uint8 [B, C, H, W], as stored.
        y: int64 [B].
        total: examples in the *global* batch of which this one may be a part; every mean divides
            by it, so that the parts' losses add up to the loss of the whole.
        all_y: int64 [total], labels of the global batch.
        stored: the method's `stored_fields` of each example, `batch["logits"]`: [B, …].
        scopes: the classes over which the cross-entropy of each run of examples is taken
            (`training.loss_scope`); of a batch that was not joined from others there is one.
    """

    __slots__ = (
        "_x",
        "all_y",
        "augmentation",
        "raw",
        "scopes",
        "stored",
        "total",
        "transform",
        "y",
    )

    def __init__(
        self,
        raw: Tensor,
        y: Tensor,
        transform: Transform,
        augmentation: Tensor | None = None,
        stored: dict[str, Tensor] | None = None,
        total: int | None = None,
        all_y: Tensor | None = None,
        scope: Scope = None,
    ) -> None:
        self.raw = raw
        self.y = y
        self.transform = transform
        self.augmentation = augmentation
        self.stored = stored or {}
        self.total = raw.shape[0] if total is None else total
        self.all_y = y if all_y is None else all_y
        self.scopes: Scopes = ((raw.shape[0], scope),)
        self._x: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """The network's input, float32 [B, C, H, W], augmented and normalized."""
        if self._x is None:
            self._x = self.view(0)
        return self._x

    def view(self, k: int) -> Tensor:
        """The k-th augmented view of the examples, as `x`, which is the first one.

        A method declares how many `views` it takes; of a fixed transform they are all alike.
        """
        choices = self.augmentation
        if choices is not None and choices.dim() > 2:  # [B, views, …]
            choices = choices[:, k]
        return self.transform(self.raw, choices)

    def __len__(self) -> int:
        return self.raw.shape[0]

    def __bool__(self) -> bool:
        return self.total > 0

    def __getitem__(self, field: str) -> Tensor:
        return self.stored[field]

    def part(self, start: int, stop: int) -> Batch:
        """Examples `start` … `stop` as a part of this batch: its means still divide by `total`."""
        part = Batch(
            self.raw[start:stop],
            self.y[start:stop],
            self.transform,
            None if self.augmentation is None else self.augmentation[start:stop],
            {key: value[start:stop] for key, value in self.stored.items()},
            self.total,
            self.all_y,
        )
        part.scopes = part_of(self.scopes, start, stop)
        return part

    def __add__(self, other: Batch) -> Batch:
        """The examples of both; `stored` fields are kept where both have them."""
        return join((self, other))

    def mean(self, per_example: Tensor) -> Tensor:
        """The mean over the global batch of a value per example, [B] → []."""
        return per_example.sum() / self.total

    def cross_entropy(self, logits: Tensor, among: Sequence[int] | None = None) -> Tensor:
        """Mean cross-entropy of `logits` [B, classes] against the labels, over the global batch.

        Each example's is over the classes in its scope alone, which hold its label. Logits that a
        method has cut off behind the last class of the scope will do.

        Args:
            logits: float [B, classes].
            among: the classes that a method's formula names, whatever the scope.
        """
        if among is not None:
            scope = scope_of(among)
            logits, y = columns(logits, scope), positions(self.y, scope)
        elif len(self.scopes) > 1:
            return self._summed_over_scopes(logits) / self.total
        elif (scope := self.scopes[0][1]) is None:
            y = self.y
        else:
            logits, y = columns(logits, scope), positions(self.y, scope)
        if len(self) == self.total:
            return F.cross_entropy(logits, y)
        return F.cross_entropy(logits, y, reduction="sum") / self.total

    def losses(self, logits: Tensor) -> Tensor:
        """The cross-entropy of each example over the classes in its scope, [B, classes] → [B]."""
        return torch.cat(self._over_scopes(logits, "none"))

    def _summed_over_scopes(self, logits: Tensor) -> Tensor:
        return torch.stack(self._over_scopes(logits, "sum")).sum()

    def _over_scopes(self, logits: Tensor, reduction: str) -> list[Tensor]:
        sizes = [n for n, _ in self.scopes]
        runs = zip(self.scopes, logits.split(sizes), self.y.split(sizes), strict=True)
        return [
            F.cross_entropy(columns(part, scope), positions(y, scope), reduction=reduction)
            for (_, scope), part, y in runs
        ]

    def in_scope(self, logits: Tensor) -> Tensor:
        """The logits of the classes in scope: [B, classes] -> [B, n], itself where all are.

        Raises:
            ValueError: the batch was joined from batches of different scopes.
        """
        return columns(logits, self.scope)

    @property
    def y_in_scope(self) -> Tensor:
        """The labels as columns of `in_scope`, int64 [B]; raises as it does."""
        return positions(self.y, self.scope)

    @property
    def scope(self) -> Scope:
        """The classes in scope, None for all; raises as `in_scope` does."""
        if len(self.scopes) > 1:
            raise ValueError("a batch joined from batches of different loss scopes has no scope")
        return self.scopes[0][1]

    def mse(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared difference over all elements of the global batch, [B, …] twice → []."""
        if len(self) == self.total:
            return F.mse_loss(prediction, target)
        elements = prediction.shape[1:].numel() * self.total
        return F.mse_loss(prediction, target, reduction="sum") / elements


def join(batches: Sequence[Batch]) -> Batch:
    """The examples of all batches, one after another; empty ones are left out.

    `stored` fields are kept where all have them.
    """
    found = [batch for batch in batches if batch.total]
    if len(found) < 2:
        return found[0] if found else batches[0]
    first = found[0]
    augmentation = None
    if first.augmentation is not None:
        augmentation = torch.cat([batch.augmentation for batch in found])  # type: ignore[misc]
    parts = any(batch.all_y is not batch.y for batch in found)
    whole = Batch(
        torch.cat([batch.raw for batch in found]),
        torch.cat([batch.y for batch in found]),
        first.transform,
        augmentation,
        {
            key: torch.cat([batch.stored[key] for batch in found])
            for key in first.stored
            if all(key in batch.stored for batch in found)
        },
        sum(batch.total for batch in found),
        torch.cat([batch.all_y for batch in found]) if parts else None,
    )
    if any(len(batch.scopes) > 1 or batch.scopes[0][1] is not None for batch in found):
        whole.scopes = joined(batch.scopes for batch in found)
    return whole
