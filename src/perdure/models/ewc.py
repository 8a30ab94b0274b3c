"""EWC: elastic weight consolidation with the Fisher information of each task (offline)."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.anchored import Anchored
from perdure.models.base import Data, Loss
from perdure.models.memory import Memory
from perdure.models.options import at_least
from perdure.models.per_example import squared_gradients

FISHERS = ("sampled", "empirical")


class EWC(Anchored):
    """Hold each weight near its value after every past task, by that task's Fisher information.

    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3, with a
    term for each past task k: L = CE + λ/2 · Σ_k Σ F_k (θ − θ*_k)². F_k is the diagonal of the
    Fisher information after task k: the mean over its examples of the squared gradient of
    −log p(y|x), one example at a time, in evaluation mode, over all outputs of the head.

    The terms are one quadratic, so that penalty and memory do not grow with the tasks:
    Σ_k F_k (θ − θ*_k)² = F (θ − θ̄)² + c, with F = Σ F_k, θ̄ = Σ F_k θ*_k / F and c of no θ. A task
    joins by F ← F + F_k, θ̄ ← θ̄ + F_k/F (θ*_k − θ̄), c ← c + Σ F_old F_k/F (θ*_k − θ̄_old)².
    All terms are positive and centered: in float32 the value of F θ² − 2 θ Σ F_k θ*_k + … is
    nothing but rounding near the anchors, and its slope is not 0 at the only one. Here θ̄ is off
    by a rounding of the weight itself. Deviations: none.

    Args:
        strength: λ.
        fisher: whose label y is: "sampled", drawn from the network's own p(y|x), one an example,
            as the Fisher information is defined; "empirical", the example's.
    """

    vectors = ("information", "anchor")
    base = "sgd"
    zero_strength = ("strength=0",)

    information: Tensor
    spread: Tensor

    def __init__(self, backbone: Backbone, strength: float, fisher: str) -> None:
        at_least(0, strength=strength)
        if fisher not in FISHERS:
            raise UserError(f"model.fisher={fisher}: must be one of {', '.join(FISHERS)}")
        super().__init__(backbone)
        self.strength = strength
        self.fisher = fisher
        self.register_buffer("spread", torch.zeros(()))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        if self.task.index == 0:
            return None
        return self.strength / 2 * (self.distance(self.information) + self.spread)

    @torch.no_grad()
    def after_task(self, data: Data, memory: Memory) -> None:
        task = self.mean_over(data, self._squares)
        gap, total = (self.weights() - self.anchor).square(), self.information + task
        # A weight of no information has no center: it takes the last one.
        share = torch.where(total > 0, task / total, 1.0)
        self.spread += (self.information * share * gap).sum()
        self.anchor.lerp_(self.weights(), share)
        self.information.copy_(total)

    def _squares(self, batch: Batch) -> dict[str, Tensor]:
        y = batch.y
        if self.fisher == "sampled":
            y = torch.multinomial(self(batch.x).softmax(1), 1).squeeze(1)
        return squared_gradients(self.backbone, batch.x, y)
