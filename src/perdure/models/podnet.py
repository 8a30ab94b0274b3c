"""PODNet: pooled outputs distillation, and a classifier with several proxies a class."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Proxy
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss
from perdure.models.directions import GrowingDirections
from perdure.models.distillation import pooled
from perdure.models.options import at_least
from perdure.models.proxies import k_means, nca, released_nca


class PODNet(GrowingDirections):
    """Feature maps that keep their sums over rows and columns, and proxies for scores.

    Douillard et al. 2020, "PODNet: pooled outputs distillation for small-tasks incremental
    learning", sec. 3, on the task's examples and the exemplars, with n classes seen, m of them new:
    L = L_NCA + √(n / m) (λ_c / S Σ_l ‖p_l − p_l_old‖ + λ_f (1 − cos(f, f_old))). Of each of the S
    stages p_l is the square of its output before the ReLU, summed over the width and over the
    height, both together in length 1. The scores ŷ of `head=growing-proxy` are trained by
    L_NCA = max(0, −log( exp(η(ŷ_y − δ)) / Σ_{i≠y} exp(η ŷ_i) )) with a learned η. Proxies of old
    classes stay fixed, those of new ones start as the k-means of features in length 1. After
    storing, the head alone is trained on the exemplars, which are balanced.

    As in the authors' code the distances are no squares, that of f is the cosine's, and the last
    stage counts. In that code δ has no effect and a term of y stays in the denominator (`nca:
    release`). With two classes the paper's formula is least at η = 0; here η stays at 1 or more
    with it. A stage of an MLP is a map of one pixel, each unit a channel.

    Args:
        pod: λ_c, weight of the maps.
        flat: λ_f, weight of the features.
        margin: δ.
        nca: "paper" or "release".
        finetune_epochs: of the balanced phase; 0 leaves it out.
        finetune_lr: its learning rate.
    """

    def __init__(
        self,
        backbone: Backbone,
        pod: float,
        flat: float,
        margin: float,
        nca: Literal["paper", "release"],
        finetune_epochs: int = 0,
        finetune_lr: float = 0.005,
    ) -> None:
        super().__init__(backbone, finetune_epochs, finetune_lr)
        if not isinstance(backbone.head, Proxy) or not backbone.grows:
            raise UserError("head: PODNet appends proxies; must be head=growing-proxy")
        at_least(0, pod=pod, flat=flat, margin=margin)
        if nca not in ("paper", "release"):
            raise UserError(f"model.nca={nca}: is no formula; must be paper or release")
        self.pod = pod
        self.flat = flat
        self.margin = margin
        self.nca = nca

    def first_directions(self, data: Data) -> Tensor:
        parts = [(F.normalize(self.backbone.features(b.x), dim=1), b.y) for b in data(1000)]
        f, y = (torch.cat(part) for part in zip(*parts, strict=True))
        proxies = self.head.shape[0]
        return torch.stack([k_means(f[y == label], proxies) for label in self.new])

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.task.phase != "main":
            return self._nca(batch, self.fixed_features(batch))
        maps = self.backbone.feature_maps(batch.x)
        f = self.backbone.pool(maps[-1])
        loss = self._nca(batch, f)
        if self.task.past and self.new:
            old_maps, f_old = self.old.maps_and_features(batch.x)
            pairs = zip(maps, old_maps, strict=True)
            distances = [(pooled(h) - pooled(old)).norm(dim=1) for h, old in pairs]
            kept = self.pod * torch.stack(distances).mean(0)
            kept = kept + self.flat * (1 - F.cosine_similarity(f, f_old))
            loss = loss + sqrt(len(self.task.seen) / len(self.new)) * batch.mean(kept)
        return loss

    @torch.no_grad()
    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if self.nca == "paper":
            self.head.eta.clamp_(min=1)

    def _nca(self, batch: Batch, f: Tensor) -> Tensor:
        scores, y = batch.in_scope(self.head(f)), batch.y_in_scope
        if self.nca == "release":
            return batch.mean(released_nca(scores, y))
        return batch.mean(nca(scores, y, self.head.eta * self.margin))
