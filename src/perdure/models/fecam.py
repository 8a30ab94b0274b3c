"""FeCAM: the class of the smallest Mahalanobis distance, by covariances of frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import UNSEEN
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Loss
from perdure.models.covariance import correlation, shrunk
from perdure.models.frozen_features import FrozenFeatures
from perdure.models.memory import Memory
from perdure.models.options import above, at_least


class FeCAM(FrozenFeatures):
    """A mean and a covariance of each class, taken when its task ends.

    Goswami et al. 2023, "FeCAM: exploiting the heterogeneity of class distributions in
    exemplar-free continual learning", eqs. 4 to 9. With features x → x^λ (Tukey, for x ≥ 0), and
    of each class μ and the covariance S: S_s = S + γ₁ V₁ I + γ₂ V₂ (1 − I), V₁ and V₂ the mean
    diagonal and off-diagonal element; Ŝ_ij = S_s,ij / √(S_s,ii S_s,jj). The score is
    −(x̂ − μ̂)ᵀ Ŝ⁻¹ (x̂ − μ̂), hats over vectors for length 1.

    Deviations: S is shrunk once and features are transformed from the first task on; the release
    shrinks twice, and transforms from the second task on. Ŝ⁻¹ is a pseudo-inverse, in double
    precision, taken once an evaluation.

    Args:
        gamma1: γ₁.
        gamma2: γ₂.
        tukey: λ; 1 leaves features as they are, which may be negative then.
        shared: whether all classes have one S, the mean of theirs (section 4.2, FeCAM₁).
        base_epochs: epochs of ordinary training on the first task, before the first statistics.
    """

    scenarios = ("class-incremental",)
    needs_boundaries = True
    mean: Tensor
    covariance: Tensor
    count: Tensor
    precision: Tensor

    def __init__(
        self,
        backbone: Backbone,
        gamma1: float,
        gamma2: float,
        tukey: float,
        shared: bool,
        base_epochs: int,
    ) -> None:
        super().__init__(backbone, base_epochs)
        at_least(0, gamma1=gamma1, gamma2=gamma2)
        above(0, tukey=tukey)
        self.gamma1, self.gamma2, self.tukey, self.shared = gamma1, gamma2, tukey, shared
        classes, d = backbone.n_classes, backbone.n_features
        self.register_buffer("mean", torch.zeros(classes, d))
        self.register_buffer("covariance", torch.zeros(1 if shared else classes, d, d))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("precision", torch.zeros_like(self.covariance), persistent=False)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return self.base_loss(batch)

    def after_task(self, data: Data, memory: Memory) -> None:
        f, y = (torch.cat(each) for each in zip(*self.features_of(data), strict=True))
        for c in y.unique().tolist():
            of_class = self.transform(f[y == c])
            self.mean[c] = of_class.mean(0)
            deviation = of_class - self.mean[c]
            cov = deviation.T @ deviation / max(1, len(of_class) - 1)
            if self.shared:
                known = (self.count > 0).sum()
                self.covariance[0].mul_(known).add_(cov).div_(known + 1)
            else:
                self.covariance[c] = cov
            self.count[c] = len(of_class)

    def transform(self, x: Tensor) -> Tensor:
        """Tukey's x^λ. [B, d] -> [B, d]."""
        return x if self.tukey == 1 else x.clamp(min=0).pow(self.tukey)

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        for c in [0] if self.shared else self.count.nonzero().squeeze(1).tolist():
            cov = shrunk(self.covariance[c].cpu().double(), self.gamma1, self.gamma2)
            self.precision[c].copy_(torch.linalg.pinv(correlation(cov), hermitian=True))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        features = F.normalize(self.transform(self.backbone.features(x)), dim=1)
        means = F.normalize(self.mean, dim=1).to(features.dtype)
        precision = self.precision.to(features.dtype).expand(len(means), -1, -1)
        scores = []
        for mean, inverse in zip(means, precision, strict=True):  # needs no [B, classes, d]
            difference = features - mean
            scores.append(-((difference @ inverse) * difference).sum(1))
        return torch.stack(scores, 1).masked_fill(self.count == 0, UNSEEN)
