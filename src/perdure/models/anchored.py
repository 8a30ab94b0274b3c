"""Weights held by a quadratic penalty (EWC, MAS, RWalk): importances, anchors, growing heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Method, Task

EXAMPLES = 256

OfBatch = Callable[[Batch], dict[str, Tensor]]


class Anchored(Method):
    """A method that knows an anchor θ* of each weight, and how important the weight is.

    These are vectors over the numbers of `trainable()`, one after another. A growing head (`grow`)
    adds numbers of importance zero.

    Attributes:
        vectors: names of the buffers that are such vectors, float [P], zero at first.
        anchor: θ*, one of them, which starts as the weights.
    """

    needs_full_parameters = True
    needs_boundaries = True
    vectors: ClassVar[tuple[str, ...]] = ("fisher", "anchor")

    anchor: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._layout = self._sizes()
        for name in self.vectors:
            self.register_buffer(name, torch.zeros(sum(self._layout.values())))
        self.anchor.copy_(self.weights().detach())

    def weights(self) -> Tensor:
        """θ, float [P]."""
        return parameters_to_vector(self.trainable())

    def _sizes(self) -> dict[str, int]:
        return {name: p.numel() for name, p in self.named_parameters() if p.requires_grad}

    def grow(self, task: Task) -> None:
        """Keep each number at the place of its parameter; those of new parameters are zero."""
        layout = self._sizes()
        if layout == self._layout:
            return
        for name in self.vectors:
            vector: Tensor = getattr(self, name)
            old = dict(zip(self._layout, vector.split(list(self._layout.values())), strict=True))
            parts = [old.get(key, vector.new_zeros(n)) for key, n in layout.items()]
            setattr(self, name, torch.cat(parts))
        self._layout = layout

    def distance(self, importance: Tensor) -> Tensor:
        """Σ Ω (θ − θ*)², [], of an importance Ω, [P]."""
        return (importance * (self.weights() - self.anchor).square()).sum()

    def mean_over(self, data: Data, of_batch: OfBatch) -> Tensor:
        """The mean over a task's examples of something of each number of the weights, [P].

        Args:
            data: the task's examples.
            of_batch: its sum over a batch, {name of a parameter of the backbone: its shape}; it
                is called in evaluation mode.
        """
        names = [name for name, p in self.backbone.named_parameters() if p.requires_grad]
        total, n = torch.zeros_like(self.anchor), 0
        self.eval()
        for batch in data(EXAMPLES):
            sums = of_batch(batch)
            total += torch.cat([sums[name].flatten() for name in names])
            n += len(batch)
        return total / n
