"""Online EWC: elastic weight consolidation, a quadratic penalty by Fisher information."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method
from perdure.models.memory import Memory
from perdure.models.per_example import squared_gradients

_EXAMPLES = 256


class EWCOnline(Method):
    """Hold each weight in place by the Fisher information that the past tasks gave it.

    Schwarz et al. 2018, "Progress & compress", eq. 8 and 9 (after Kirkpatrick et al. 2017):
    L = CE + λ/2 · Σ F (θ − θ*)², and F ← γ F + F_task, θ* ← θ when a task ends. F_task is the
    diagonal of the empirical Fisher: the mean over the task's examples of the squared gradient of
    −log p(y|x) at the example's own label, one example at a time.

    Args:
        strength: λ; in Mammoth's `e_lambda`, which has no ½, half of this.
        decay: γ.
    """

    needs_full_parameters = True
    base = "sgd"
    zero_strength = ("strength=0",)

    fisher: Tensor
    anchor: Tensor

    def __init__(self, backbone: Backbone, strength: float, decay: float) -> None:
        super().__init__(backbone)
        if strength < 0 or decay < 0:
            raise UserError(
                f"model.strength={strength}, model.decay={decay}: must both be 0 or more"
            )
        self.strength = strength
        self.decay = decay
        weights = parameters_to_vector(self.trainable()).detach()
        self.register_buffer("fisher", torch.zeros_like(weights))
        self.register_buffer("anchor", weights.clone())

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        if self.task.index == 0:
            return None
        weights = parameters_to_vector(self.trainable())
        return self.strength / 2 * (self.fisher * (weights - self.anchor).square()).sum()

    def after_task(self, data: Data, memory: Memory) -> None:
        self.fisher.mul_(self.decay).add_(self._fisher_of(data))
        self.anchor.copy_(parameters_to_vector(self.trainable()).detach())

    def _fisher_of(self, data: Data) -> Tensor:
        names = [name for name, p in self.backbone.named_parameters() if p.requires_grad]
        total, n = torch.zeros_like(self.fisher), 0
        self.eval()
        for batch in data(_EXAMPLES):
            squares = squared_gradients(self.backbone, batch.x, batch.y)
            total += torch.cat([squares[name].flatten() for name in names])
            n += len(batch)
        return total / n
