"""MAS: memory aware synapses, a quadratic penalty by how much each weight moves the output."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.anchored import Anchored
from perdure.models.base import Data, Loss
from perdure.models.memory import Memory
from perdure.models.options import at_least
from perdure.models.per_example import summed_gradients


class MAS(Anchored):
    """Hold each weight in place by how sensitive the outputs are to it, whatever the labels.

    Aljundi et al. 2018, "Memory aware synapses: learning what (not) to forget", sec. 4.1: Ω is the
    mean over the task's examples of |∂‖z(x)‖² / ∂θ|, z the logits, one example at a time (eq. 2
    with the scalar of "multi-output networks"), in evaluation mode, and the penalty is
    λ Σ Ω (θ − θ*)² (eq. 4), θ* the weights after the last task. Over the tasks Ω is a running
    mean, each task counting alike, so that λ keeps its meaning.

    Deviation: z are all outputs of the head; in the paper they are those of the task's own head.

    Args:
        strength: λ.
    """

    vectors = ("omega", "anchor")
    base = "sgd"
    zero_strength = ("strength=0",)

    omega: Tensor

    def __init__(self, backbone: Backbone, strength: float) -> None:
        at_least(0, strength=strength)
        super().__init__(backbone)
        self.strength = strength

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        return self.strength * self.distance(self.omega) if self.task.index else None

    def after_task(self, data: Data, memory: Memory) -> None:
        self.omega += (self.mean_over(data, self._sensitivity) - self.omega) / (self.task.index + 1)
        self.anchor.copy_(self.weights().detach())

    def _sensitivity(self, batch: Batch) -> dict[str, Tensor]:
        return summed_gradients(self.backbone, batch.x, batch.y, _squared_norm, torch.abs)


def _squared_norm(z: Tensor, y: Tensor) -> Tensor:
    return z.square().sum(1)
