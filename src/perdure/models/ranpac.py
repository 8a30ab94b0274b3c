"""RanPAC: a random projection and ridge regression, from a Gram matrix and class sums."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Loss
from perdure.models.frozen_features import Projected
from perdure.models.memory import Memory

RIDGES = tuple(10.0**k for k in range(-8, 9))
"""What the ridge is chosen from (appendix F.6)."""


class RanPAC(Projected):
    """Class means, decorrelated by the Gram matrix of all features, in a random projection.

    McDonnell et al. 2023, "RanPAC: random projections and pre-trained models for continual
    learning", eqs. 5 to 7, algorithm 1. H = relu(f R); G = Σ HᵀH and Q = Σ HᵀY over all examples
    so far, Y 1-hot; scores are H W with W = (G + λ I)⁻¹ Q. G and Q grow at a task's end, by all of
    its examples without augmentation; an order of the tasks changes rounding and λ only. λ is the
    one of 10⁻⁸ … 10⁸ of the least squared error on the last 20 % of the current task's shuffled
    examples, W being fitted to its first 80 %, as in the release.

    Deviations: `base_epochs` trains the whole network on the first task, where the paper tunes
    adapters of a pretrained one; G, Q and the solution are in double precision.

    Args:
        projection: M, columns of the random layer.
        random_projection: whether there is one; without it H = f, plain ridge regression.
        base_epochs: epochs of ordinary training on the first task, before the first fit.
    """

    G: Tensor
    Q: Tensor
    ridge: Tensor
    weight: Tensor

    def __init__(
        self, backbone: Backbone, projection: int, random_projection: bool, base_epochs: int
    ) -> None:
        super().__init__(backbone, projection, base_epochs)
        self.random_projection = random_projection
        width = projection if random_projection else backbone.n_features
        self.register_buffer("G", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("Q", torch.zeros(width, backbone.n_classes, dtype=torch.float64))
        self.register_buffer("ridge", torch.ones((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros(width, backbone.n_classes), persistent=False)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return self.base_loss(batch)

    def expand(self, f: Tensor) -> Tensor:
        """Features [B, d] -> H, [B, M]."""
        return torch.relu(f @ self.R) if self.random_projection else f

    def after_task(self, data: Data, memory: Memory) -> None:
        f, y = (torch.cat(each) for each in zip(*self.features_of(data), strict=True))
        order = torch.randperm(len(y)).to(y.device)
        first, last = order.split([n := (4 * len(y) + 4) // 5, len(y) - n])
        fitted, held = self.sums(f[first], y[first]), self.sums(f[last], y[last])
        self.ridge.copy_(self.best_ridge(*fitted, f[last], y[last]))
        self.G.add_(fitted[0] + held[0])
        self.Q.add_(fitted[1] + held[1])
        self.counts.index_add_(0, y, torch.ones_like(y))

    def sums(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """HᵀH, float64 [M, M], and HᵀY, float64 [M, classes]."""
        gram, cross = torch.zeros_like(self.G), torch.zeros_like(self.Q)
        for rows, labels in zip(f.split(1000), y.split(1000), strict=True):
            h = self.expand(rows).double()
            gram.addmm_(h.T, h)
            cross.addmm_(h.T, self.one_hot(labels))
        return gram, cross

    def best_ridge(self, gram: Tensor, cross: Tensor, f: Tensor, y: Tensor) -> Tensor:
        """The ridge, float64 [], by which W from G and Q predicts features [B, d] best."""
        # One decomposition serves all ridges: (G + λ I)⁻¹ = U (Λ + λ)⁻¹ Uᵀ.
        values, vectors = torch.linalg.eigh(gram)
        values, cross = values.clamp(min=0)[:, None], vectors.T @ cross
        ridges = torch.tensor(RIDGES, dtype=torch.float64, device=gram.device)
        h, targets = self.expand(f).double() @ vectors, self.one_hot(y)
        errors = [(h @ (cross / (values + ridge)) - targets).square().sum() for ridge in ridges]
        return ridges[torch.stack(errors).argmin()]

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        identity = torch.eye(len(self.G), dtype=self.G.dtype, device=self.G.device)
        self.weight.copy_(torch.linalg.solve(self.G + self.ridge * identity, self.Q))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        h = self.expand(self.backbone.features(x))
        return self.of_seen(h @ self.weight.to(h.dtype))
