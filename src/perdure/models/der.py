"""DER: dark experience replay (distillation of stored logits)."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method, StepOutput


class DER(Method):
    """Match the logits that were stored when an example was first seen.

    Buzzega et al. 2020, "Dark experience for general continual learning", eq. 5:
    L = CE(z, y) + α E_B ‖z' − h(x')‖². As in the authors' code the square is averaged over the
    logits, and the logits kept are those of the augmented view.

    Args:
        alpha: weight of the logits' distance.
    """

    replays = 1
    stored_fields = ("logits",)
    base = "sgd"
    zero_strength = ("alpha=0",)

    def __init__(self, backbone: Backbone, alpha: float) -> None:
        super().__init__(backbone)
        self.alpha = alpha

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        z, z_past = self.logits(batch, past)
        loss = batch.cross_entropy(z)
        if past:
            loss = loss + self.alpha * past.mse(z_past, past["logits"])
        return StepOutput(loss, {"logits": z})

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self(batch.x)}
