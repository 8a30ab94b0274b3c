"""LUCIR: learning a unified classifier incrementally via rebalancing (cosine head, less-forget)."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Cosine
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss
from perdure.models.directions import GrowingDirections
from perdure.models.options import at_least


class LUCIR(GrowingDirections):
    """Cosine scores, features that keep their direction, and a margin to the new classes.

    Hou et al. 2019, "Learning a unified classifier incrementally via rebalancing", eq. 3 to 11, on
    the task's examples and the exemplars, with f̄ = f / |f| and w̄ alike:
    L = CE(η ⟨w̄, f̄⟩, y) + λ mean (1 − ⟨f̄, f̄_old⟩)
        + 1/|N_o| Σ_{x in N_o} Σ_{k=1}^{K} max(0, m − ⟨w̄_y, f̄⟩ + ⟨w̄_k, f̄⟩),
    N_o being the examples of old classes in the batch and w̄_k the K new classes that score highest
    on x. λ = λ_base √(n_old / n_new). The weights of old classes stay fixed, those of new ones
    start as the mean of f̄, in the old ones' average length (imprinting). After storing, an optional
    phase trains the head alone on the exemplars, which are balanced.

    Deviations: the paper prints the inverse ratio in λ; the authors' code and this have the one
    above. The code averages over K where the paper and this add up. The last ReLU stays unless the
    backbone leaves it out (`backbone.last_relu=false` of the ResNets).

    Args:
        less_forget: λ_base.
        margin: m.
        hardest: K.
        finetune_epochs: of the balanced phase; 0 leaves it out.
        finetune_lr: its learning rate.
    """

    def __init__(
        self,
        backbone: Backbone,
        less_forget: float,
        margin: float,
        hardest: int,
        finetune_epochs: int = 0,
        finetune_lr: float = 0.01,
    ) -> None:
        super().__init__(backbone, finetune_epochs, finetune_lr)
        if not isinstance(backbone.head, Cosine) or not backbone.grows:
            raise UserError("head: LUCIR appends cosine weights; must be head=growing-cosine")
        at_least(0, less_forget=less_forget, margin=margin)
        at_least(1, hardest=hardest)
        self.less_forget = less_forget
        self.margin = margin
        self.hardest = hardest

    def first_directions(self, data: Data) -> Tensor:
        labels = torch.tensor(list(self.new), device=self.head.eta.device)
        sums = torch.zeros(len(labels), self.backbone.n_features, device=labels.device)
        for batch in data(1000):
            f = F.normalize(self.backbone.features(batch.x), dim=1)
            sums += (labels[:, None] == batch.y).to(f.dtype) @ f
        return sums  # of which the head takes the direction, as it would of the means

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.task.phase != "main":
            return batch.cross_entropy(self.head(self.fixed_features(batch)))
        f = self.backbone.features(batch.x)
        cosines = self.head.cosines(f)
        loss = batch.cross_entropy(self.head.eta * cosines)
        if self.task.past and self.new:
            kept = F.cosine_similarity(f, self.old.features(batch.x))
            weight = self.less_forget * sqrt(len(self.task.past) / len(self.new))
            loss = loss + weight * batch.mean(1 - kept) + self._margin_loss(batch, cosines)
        return loss

    def _margin_loss(self, batch: Batch, cosines: Tensor) -> Tensor:
        past = self.task.past
        new = self.new.select(cosines).topk(min(self.hardest, len(self.new))).values
        own = cosines.gather(1, batch.y[:, None])
        each = (self.margin - own + new).relu().sum(1) * past.mask(batch.y)
        return each.sum() / past.mask(batch.all_y).sum().clamp(min=1)
