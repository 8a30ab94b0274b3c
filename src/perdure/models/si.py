"""SI: synaptic intelligence, a quadratic penalty by path-integral importance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method
from perdure.models.gradients import flat_gradient
from perdure.models.memory import Memory


class SI(Method):
    """Hold each weight in place by how much its path lowered the loss of the past tasks.

    Zenke et al. 2017, "Continual learning through synaptic intelligence": the path integral
    ω = Σ −g · Δθ over a task's steps (eq. 3; g the gradient of the task's loss without the
    penalty, Δθ the step actually taken), Ω ← Ω + ω / ((θ − θ̃)² + ξ) when it ends (eq. 5), and
    the penalty c · Σ Ω (θ̃ − θ)² (eq. 4).

    Args:
        c: weight of the penalty.
        xi: ξ, keeps the quotient finite.
    """

    needs_full_parameters = True
    base = "sgd"
    zero_strength = ("c=0",)

    omega: Tensor
    importance: Tensor
    anchor: Tensor

    def __init__(self, backbone: Backbone, c: float, xi: float) -> None:
        super().__init__(backbone)
        if c < 0 or xi <= 0:
            raise UserError(f"model.c={c}, model.xi={xi}: c must be 0 or more, xi above 0")
        self.c = c
        self.xi = xi
        weights = parameters_to_vector(self.trainable()).detach()
        self.register_buffer("omega", torch.zeros_like(weights))
        self.register_buffer("importance", torch.zeros_like(weights))
        self.register_buffer("anchor", weights.clone())

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        if self.task.index == 0:
            return None
        weights = parameters_to_vector(self.trainable())
        return self.c * (self.importance * (weights - self.anchor).square()).sum()

    def after_backward(self, references: Tensor | None) -> None:
        self._gradient = flat_gradient(self.trainable())
        self._before = parameters_to_vector(self.trainable()).detach()

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        moved = parameters_to_vector(self.trainable()).detach() - self._before
        self.omega.addcmul_(self._gradient, moved, value=-1)

    def after_task(self, data: Data, memory: Memory) -> None:
        weights = parameters_to_vector(self.trainable()).detach()
        self.importance += self.omega / ((weights - self.anchor).square() + self.xi)
        self.anchor.copy_(weights)
        self.omega.zero_()
