"""SLDA: streaming linear discriminant analysis (deep SLDA) on frozen features, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, StepOutput
from perdure.models.frozen_features import FrozenFeatures
from perdure.models.memory import Memory


class SLDA(FrozenFeatures):
    """A mean of each class and one covariance of all, updated with every example, seen once.

    Hayes & Kanan 2020, "Lifelong machine learning with deep streaming linear discriminant
    analysis", section 3. With x the frozen features of the next example, y its class, n and c_y
    the numbers of examples before it: Σ ← (n Σ + Δ) / (n + 1), Δ = n/(n + 1) (x − μ_y)(x − μ_y)ᵀ,
    then μ_y ← (c_y μ_y + x) / (c_y + 1). Scores are W x + b, with Λ = [(1 − ε) Σ + ε I]⁻¹,
    W = M Λ and b_k = −½ μ_kᵀ Λ μ_k. A batch gives what its examples give one after another.

    The network stays as it is, pretrained or random, unless `base_epochs` trains it on the first
    task, the paper's base initialization; it takes Σ from these classes, here it starts at zero.
    Later epochs of a task are skipped, and a class that has not occurred is never chosen.

    Args:
        shrinkage: ε, above 0, at most 1.
        base_epochs: epochs of ordinary training on the first task, before the stream begins.
        d: length of what `embed` gives, where that is not the features.
    """

    count: Tensor
    mean: Tensor
    covariance: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self, backbone: Backbone, shrinkage: float, base_epochs: int = 0, d: int | None = None
    ) -> None:
        super().__init__(backbone, base_epochs)
        if not 0 < shrinkage <= 1:
            raise UserError(f"model.shrinkage={shrinkage}: must be above 0 and at most 1")
        self.shrinkage = shrinkage
        classes, d = backbone.n_classes, d or backbone.n_features
        self.register_buffer("count", torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(classes, d))
        self.register_buffer("covariance", torch.zeros(d, d))
        self.register_buffer("weight", torch.zeros(classes, d), persistent=False)
        self.register_buffer("bias", torch.zeros(classes), persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """What is classified of inputs [B, C, H, W], float [B, d]: the network's features."""
        return self.backbone.features(x)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.in_base_phase or self.task.epoch:
            return self.base_loss(batch)
        self.backbone.eval()  # batch norm keeps the statistics that it has
        with torch.no_grad():
            features = self.embed(batch.x)
        return StepOutput(None, rows={"x": features, "y": batch.y})

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if rows:
            self.update_statistics(rows["x"].float(), rows["y"])

    @torch.no_grad()
    def update_statistics(self, x: Tensor, y: Tensor) -> None:
        """Take in features [B, d] with labels int64 [B], in this order."""
        same = (y[:, None] == y).float()
        before = same.tril(-1)  # [i, j]: j has the class of i, and comes before it
        n = self.count.sum()
        earlier = self.count[y] + before.sum(1)
        total = self.count[y, None] * self.mean[y] + before @ x
        deviation = x - total / earlier.clamp(min=1)[:, None]
        number = n + torch.arange(len(y), device=y.device)
        scatter = deviation.T @ (deviation * (number / (number + 1))[:, None])
        self.covariance.mul_(n).add_(scatter).div_(n + len(y))
        new = torch.zeros_like(self.count).index_add_(0, y, torch.ones_like(earlier))
        sums = (self.count[:, None] * self.mean).index_add_(0, y, x)
        self.count.add_(new)
        self.mean.copy_(sums / self.count.clamp(min=1)[:, None])

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        """Solve for the weights, on the host in double precision."""
        covariance, mean = self.covariance.cpu().double(), self.mean.cpu().double()
        identity = torch.eye(len(covariance), dtype=torch.float64)
        regular = (1 - self.shrinkage) * covariance + self.shrinkage * identity
        weight = torch.linalg.solve(regular, mean.T).T
        self.weight.copy_(weight)
        self.bias.copy_(-0.5 * (weight * mean).sum(1))
        self.bias.masked_fill_(self.count == 0, torch.finfo(torch.float32).min)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return self.embed(x) @ self.weight.T + self.bias
