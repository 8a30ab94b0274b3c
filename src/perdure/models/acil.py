"""ACIL: analytic class-incremental learning, a recursive ridge regression on frozen features."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Loss
from perdure.models.frozen_features import Projected, RecursiveRidge
from perdure.models.memory import Memory
from perdure.models.options import above


class ACIL(Projected):
    """The weights of a ridge regression on all examples so far, though none of them is kept.

    Zhuang et al. 2022, "ACIL: analytic class-incremental learning with absolute memorization and
    privacy protection", sections 3.1 to 3.3. After base training on the first task the head is
    dropped; H = relu(f R) with a fixed random R, Y 1-hot. With R_0 = I/γ (the inverse, not the
    layer), W_0 = 0 and a batch (H, Y), theorem 3.1 is

        R ← R − R Hᵀ (I + H R Hᵀ)⁻¹ H R,    W ← W + R Hᵀ (Y − H W),

    so that W = (Σ HᵀH + γ I)⁻¹ Σ HᵀY whatever the order. A task's examples are taken in when it
    ends, the first one's too, without augmentation and 500 at a time, in float64.

    Deviation: new classes are columns of zeros from the start, which is the same. Without
    pretrained weights the network is random, unless `base_epochs` trains it.

    Args:
        projection: M, columns of the random layer.
        gamma: γ, the ridge.
        base_epochs: epochs of ordinary training on the first task, before the first fit.
    """

    def __init__(self, backbone: Backbone, projection: int, gamma: float, base_epochs: int) -> None:
        super().__init__(backbone, projection, base_epochs)
        above(0, gamma=gamma)
        self.main = RecursiveRidge(projection, backbone.n_classes, gamma)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return self.base_loss(batch)

    def expand(self, f: Tensor) -> Tensor:
        """Features [B, d] -> H, [B, M]."""
        return torch.relu(f @ self.R)

    def after_task(self, data: Data, memory: Memory) -> None:
        for f, y in self.features_of(data):
            self.main.update(self.expand(f).double(), self.one_hot(y))
            self.counts.index_add_(0, y, torch.ones_like(y))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        h = self.expand(self.backbone.features(x))
        return self.of_seen(h @ self.main.W.to(h.dtype))
