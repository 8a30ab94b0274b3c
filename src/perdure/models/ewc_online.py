"""Online EWC: elastic weight consolidation, a quadratic penalty by Fisher information."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.anchored import Anchored
from perdure.models.base import Data, Loss
from perdure.models.memory import Memory
from perdure.models.per_example import squared_gradients


class EWCOnline(Anchored):
    """Hold each weight in place by the Fisher information that the past tasks gave it.

    Schwarz et al. 2018, "Progress & compress", eq. 8 and 9 (after Kirkpatrick et al. 2017):
    L = CE + λ/2 · Σ F (θ − θ*)², and F ← γ F + F_task, θ* ← θ when a task ends. F_task is the
    diagonal of the empirical Fisher: the mean over the task's examples of the squared gradient of
    −log p(y|x) at the example's own label, one example at a time.

    Args:
        strength: λ; in Mammoth's `e_lambda`, which has no ½, half of this.
        decay: γ.
    """

    needs_boundaries = False
    base = "sgd"
    zero_strength = ("strength=0",)

    fisher: Tensor

    def __init__(self, backbone: Backbone, strength: float, decay: float) -> None:
        if strength < 0 or decay < 0:
            raise UserError(
                f"model.strength={strength}, model.decay={decay}: must both be 0 or more"
            )
        super().__init__(backbone)
        self.strength = strength
        self.decay = decay

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        return self.strength / 2 * self.distance(self.fisher) if self.task.index else None

    def after_task(self, data: Data, memory: Memory) -> None:
        task = self.mean_over(data, lambda b: squared_gradients(self.backbone, b.x, b.y))
        self.fisher.mul_(self.decay).add_(task)
        self.anchor.copy_(self.weights().detach())
