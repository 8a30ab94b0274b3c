"""FDR: function distance regularization (stored outputs as targets, in a step of their own)."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method, StepOutput
from perdure.models.options import at_least


class FDR(Method):
    """Keep the outputs on stored examples close to what they were at the end of their task.

    Benjamin et al. 2019, "Measuring and regularizing networks in function space": the L2 distance
    of two functions, estimated on stored examples, is added to the loss. As in the code of Buzzega
    et al. 2020 it is α E_B ‖p_θ(x) − p_t(x)‖₂ of class probabilities p, not squared, and minimized
    in an optimizer step of its own after that on the new examples; `steps=1` adds both, as in the
    paper. p_t(x) is of the network at the end of the task t of x, for the example as it is stored,
    without augmentation; that code has it of an augmented one.

    Args:
        alpha: α, weight of the distance.
        steps: 2, or 1.
    """

    replays = 1
    stored_fields = ("probabilities",)
    store_at = "task"
    joint = False
    base = "sgd"
    zero_strength = ("alpha=0",)

    def __init__(self, backbone: Backbone, alpha: float, steps: int) -> None:
        super().__init__(backbone)
        at_least(0, alpha=alpha)
        if steps not in (1, 2):
            raise UserError(f"model.steps={steps}: steps on each batch; must be 1 or 2")
        self.alpha = alpha
        self.apart = steps == 2

    def updates(self, batch: Batch) -> int:
        return 2 if self.apart and self.alpha and self.task.index else 1

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        if self.update:
            return self.alpha * _distance(self(past.x), past) if past else StepOutput(None)
        if self.apart or not past:
            return batch.cross_entropy(self(batch.x))
        z, z_past = self.logits(batch, past)
        return batch.cross_entropy(z) + self.alpha * _distance(z_past, past)

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": self(batch.x).softmax(1)}


def _distance(z: Tensor, past: Batch) -> Tensor:
    """E_B ‖p_θ(x) − p_t(x)‖₂, [], of logits z [B, classes]."""
    return past.mean(torch.linalg.vector_norm(z.softmax(1) - past["probabilities"], dim=1))
