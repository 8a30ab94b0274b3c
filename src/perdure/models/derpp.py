"""DER++: dark experience replay with labels."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method, StepOutput


class DERpp(Method):
    """DER, and the labels of a second, independent draw from the buffer.

    Buzzega et al. 2020, "Dark experience for general continual learning", eq. 6 and Alg. 2:
    L = CE(z, y) + α E_B ‖z' − h(x')‖² + β E_B CE(h(x''), y''). As in the authors' code the square
    is averaged over the logits.

    Args:
        alpha: weight of the logits' distance.
        beta: weight of the second draw's cross-entropy.
    """

    replays = 2
    stored_fields = ("logits",)
    base = "sgd"
    zero_strength = ("alpha=0", "beta=0")

    def __init__(self, backbone: Backbone, alpha: float, beta: float) -> None:
        super().__init__(backbone)
        self.alpha = alpha
        self.beta = beta

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        first, second = replay
        z, z_first, z_second = self.logits(batch, first, second)
        loss = batch.cross_entropy(z)
        if first:
            loss = loss + self.alpha * first.mse(z_first, first["logits"])
            loss = loss + self.beta * second.cross_entropy(z_second)
        return StepOutput(loss, {"logits": z})

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self(batch.x)}
