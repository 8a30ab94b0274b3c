"""RWalk: Riemannian walk, a quadratic penalty by Fisher information and path scores."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.anchored import Anchored
from perdure.models.base import Data, Loss
from perdure.models.gradients import flat_gradient
from perdure.models.memory import Memory
from perdure.models.options import at_least

_EPS = 1e-8


class RWalk(Anchored):
    """Hold each weight by its Fisher information and by what its path gained for the loss.

    Chaudhry et al. 2018, "Riemannian walk for incremental learning", sec. 4: EWC++'s moving
    Fisher information F ← α g² + (1 − α) F at each step (g the gradient of the task's loss without
    the penalty), never reset; after every Δt steps the score of each weight grows by
    max(0, −Σ g Δθ) / (½ F Δθ² + 1e-8), the sum over these steps, Δθ below over all of them. When a
    task ends, s ← ½ (s + s_task), s_task alone after the first; F and s are scaled to a largest
    value of 1 and held, with θ* ← θ. The penalty is λ Σ (F + s) (θ − θ*)².

    Deviations: the paper also replays a few examples; g is a batch's, so F is no mean over single
    examples. A task's last window may be shorter. All updates on one batch are one step.

    Args:
        strength: λ.
        alpha: α, how much the latest step counts in F.
        window: Δt, batches.
    """

    vectors = ("fisher", "path", "start", "score", "past_score", "importance", "anchor")
    base = "sgd"
    zero_strength = ("strength=0",)

    fisher: Tensor  # F
    path: Tensor  # −Σ g Δθ of the window, which began at θ = start
    start: Tensor
    score: Tensor  # s_task
    past_score: Tensor  # s
    importance: Tensor  # F + s, scaled

    def __init__(self, backbone: Backbone, strength: float, alpha: float, window: int) -> None:
        at_least(0, strength=strength)
        if not 0 < alpha <= 1:
            raise UserError(f"model.alpha={alpha}: must be above 0, and 1 at most")
        if not isinstance(window, int) or window < 1:
            raise UserError(f"model.window={window}: must be an integer, 1 or more")
        super().__init__(backbone)
        self.strength, self.alpha, self.window = strength, alpha, window

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def penalty(self) -> Tensor | None:
        return self.strength * self.distance(self.importance) if self.task.index else None

    def before_task(self, data: Data) -> None:
        self.start.copy_(self.weights().detach())

    def after_backward(self, references: Tensor | None) -> None:
        self._gradient = flat_gradient(self.trainable())
        self._before = self.weights().detach()
        self.fisher.lerp_(self._gradient.square(), self.alpha)

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.path.addcmul_(self._gradient, self.weights().detach() - self._before, value=-1)

    def after_batch(self) -> None:
        task = self.task
        if (task.epoch * task.steps_per_epoch + task.step + 1) % self.window == 0:
            self._close_window()

    @torch.no_grad()
    def _close_window(self) -> None:
        weights = self.weights()
        self.score += self.path.relu() / (self.fisher * (weights - self.start).square() / 2 + _EPS)
        self.path.zero_()
        self.start.copy_(weights)

    @torch.no_grad()
    def after_task(self, data: Data, memory: Memory) -> None:
        self._close_window()
        self.past_score.lerp_(self.score, 0.5 if self.task.index else 1.0)
        self.importance.copy_(_to_one(self.fisher) + _to_one(self.past_score))
        self.anchor.copy_(self.weights())
        self.score.zero_()


def _to_one(values: Tensor) -> Tensor:
    """Scaled to a largest value of 1; zeros stay zeros."""
    return values / values.max().clamp(min=1e-30)
