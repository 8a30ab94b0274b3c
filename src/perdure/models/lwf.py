"""LwF: learning without forgetting (distillation from the network before the task)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method
from perdure.models.memory import Memory


class LwF(Method):
    """Keep the responses that the network gave on the new data before it learned them.

    Li & Hoiem 2016, "Learning without forgetting", eq. 1 to 4: L = CE + λ_o · L_old, with L_old
    the cross-entropy between the old and the new network's outputs on the old classes, both
    softened by the exponent 1/T. Deviations: one head over all classes seen, as in
    class-incremental use, where the paper has a head a task; no warm-up of the new head; the old
    network is kept and sees the same augmented view, where the paper records its responses once.

    Args:
        alpha: λ_o, weight of the old responses.
        temperature: T.
    """

    joint = False
    scenarios = ("class-incremental",)
    needs_full_parameters = True
    base = "sgd"
    zero_strength = ("alpha=0",)

    def __init__(self, backbone: Backbone, alpha: float, temperature: float) -> None:
        super().__init__(backbone)
        if alpha < 0 or temperature <= 0:
            raise UserError(
                f"model.alpha={alpha}, model.temperature={temperature}: alpha must be 0 or more, "
                "temperature above 0"
            )
        self.alpha = alpha
        self.temperature = temperature
        self.old = deepcopy(backbone).requires_grad_(False)

    def train(self, mode: bool = True) -> LwF:
        super().train(mode)
        self.old.eval()
        return self

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        logits, past = self(batch.x), self.task.past
        loss = batch.cross_entropy(logits, self.task.seen)
        if past:
            with torch.no_grad():
                target = self._soft(past.select(self.old(batch.x))).exp()
            response = self._soft(past.select(logits))
            loss = loss - self.alpha * batch.mean((target * response).sum(1))
        return loss

    def _soft(self, logits: Tensor) -> Tensor:
        return nn.functional.log_softmax(logits / self.temperature, 1)

    def after_task(self, data: Data, memory: Memory) -> None:
        self.old.load_state_dict(self.backbone.state_dict())
