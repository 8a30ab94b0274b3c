"""FeTrIL: a linear head trained on features of new classes, moved to where old classes were."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.models.base import Data, Loss
from perdure.models.frozen_features import BASE, FrozenFeatures
from perdure.models.memory import Memory
from perdure.models.phase import Phase


class FeTrIL(FrozenFeatures):
    """Pseudo-features of old classes by translation; one mean a class is all that is kept.

    Petit et al. 2023, "FeTrIL: feature translation for exemplar-free class-incremental learning",
    section 3.2. The features f are frozen after the first task; the head goes on. Each old class p
    takes the new class n of the largest cos(μ_p, μ_n), and of each example
    x of n, f̂ = f(x) − μ_n + μ_p is a pseudo-feature of p (eq. 1). The loss is the mean
    cross-entropy of real and pseudo-features over the classes seen so far. Means are those of a
    task's examples, taken before its main phase.

    Deviations: a batch has the pseudo-features of its own examples, so that an epoch has all of
    them, once each; the head is the network's, trained on from its last weights, not an SVM; the
    features are without augmentation. On the first task, after the base phase, the head is trained
    on real features. Without pretrained weights the network is random, unless `base_epochs`
    trains it.

    Args:
        base_epochs: epochs of ordinary training on the first task, before the network is frozen.
    """

    scenarios = ("class-incremental",)
    needs_boundaries = True
    loss_scope = "seen"
    mean: Tensor
    shift: Tensor
    source: Tensor

    def __init__(self, backbone: Backbone, base_epochs: int) -> None:
        super().__init__(backbone, base_epochs)
        backbone.head.requires_grad_(True)
        classes, d = backbone.n_classes, backbone.n_features
        self.register_buffer("mean", torch.zeros(classes, d))
        self.register_buffer("shift", torch.zeros(classes, d))  # of p: μ_p − μ_n
        self.register_buffer("source", torch.full((classes,), -1))  # of p: n

    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        moves = self if phase.name == BASE else self.backbone.head
        return [{"params": [p for p in moves.parameters() if p.requires_grad]}]

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        if not phase.is_main:
            return
        sums, counts = torch.zeros_like(self.mean), self.mean.new_zeros(len(self.mean))
        for f, y in self.features_of(data):
            sums.index_add_(0, y, f)
            counts.index_add_(0, y, torch.ones_like(y, dtype=counts.dtype))
        new = counts > 0
        self.mean[new] = sums[new] / counts[new, None]
        unit = F.normalize(self.mean, dim=1)
        cosines = (unit @ unit.T).masked_fill(~new, -torch.inf)
        self.source.copy_(cosines.argmax(1))
        self.shift.copy_(self.mean - self.mean[self.source])

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.in_base_phase:
            return self.base_loss(batch)
        f = self.features(batch)
        loss, n = self.errors(f, batch.y).sum(), batch.y.new_tensor(batch.total)
        if past := self.task.past:
            source = past.select(self.source[None])
            moved, of_class = self.moved(f, past), past.labels(torch.arange(len(past)).to(f.device))
            errors = self.errors(moved.flatten(0, 1), of_class.repeat(len(f)))
            loss = loss + (errors.view(-1, len(past)) * (batch.y[:, None] == source)).sum()
            n = n + (batch.all_y[:, None] == source).sum()
        return loss / n

    def moved(self, f: Tensor, past: Classes) -> Tensor:
        """f − μ_n + μ_p of each old class p, [B, past, d]; a pseudo-feature where f is of n."""
        return f[:, None] + past.select(self.shift.T).T

    def errors(self, f: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of features [B, d] over the classes seen so far, [B]."""
        seen = self.task.seen
        scores = seen.select(self.backbone.head(f))
        return F.cross_entropy(scores, seen.positions(y), reduction="none")
