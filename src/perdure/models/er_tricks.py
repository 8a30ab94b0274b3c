"""ER with tricks: replay with bias control, learning-rate decay and a choice of examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, StepOutput, Task
from perdure.models.correction import Correction
from perdure.models.er import ER
from perdure.models.options import at_least
from perdure.models.phase import MAIN, Phase
from perdure.models.teacher import frozen


class ERTricks(ER):
    """Replay with the tricks of Buzzega et al. 2020 (ICPR), "Rethinking experience replay".

    - Bias control: at a task's end (g, o) is fitted on the memory, without augmentation and with
      the network fixed; predictions have z' = g z + o for the classes of the last task.
    - The learning rate lr₀ dⁿ, where n examples were seen before the step.
    - Examples are stored as they are and augmented when they are drawn, as always here.
    - Balance and losses choose the examples (`buffer=loss-aware-balanced`, the default here).

    Deviations: (g, o) starts at (1, 0) for each task, in the authors' code at (0, 0) and for later
    tasks where it was. dⁿ scales the gradient, which with plain SGD is the same.

    Args:
        correction_epochs: passes over the memory that fit (g, o).
        correction_lr: their learning rate.
        lr_decay: d.
    """

    joint = False
    needs_boundaries = True
    needs_n_classes = True
    plain_sgd = True
    base = "er"
    zero_strength = ("correction_epochs=0", "lr_decay=1.0")

    seen: Tensor

    def __init__(
        self, backbone: Backbone, correction_epochs: int, correction_lr: float, lr_decay: float
    ) -> None:
        super().__init__(backbone)
        at_least(0, correction_epochs=correction_epochs, correction_lr=correction_lr)
        if not 0 < lr_decay <= 1:
            raise UserError(
                f"model.lr_decay={lr_decay}: multiplies the learning rate; must be above 0, and "
                "at most 1"
            )
        self.correction_epochs = correction_epochs
        self.correction_lr = correction_lr
        self.log_decay = math.log(lr_decay)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def grow(self, task: Task) -> None:
        self.correction = Correction(task.classes, self.backbone.n_classes)

    def phases(self, task: Task) -> Sequence[Phase]:
        optimizer = {"lr": self.correction_lr}
        return (MAIN, Phase("bias", "memory", self.correction_epochs, optimizer=optimizer))

    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        part = self.backbone if phase.is_main else self.correction
        return [{"params": list(part.parameters())}]

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.task.phase == "bias":
            with frozen(self.backbone):
                z = self(batch.transform(batch.raw, None))
            return batch.cross_entropy(self.correction(z, learns=True))
        loss = super().loss(batch, *replay)
        assert isinstance(loss, Tensor)
        return StepOutput(loss, sums={"seen": torch.full_like(self.seen, len(batch))})

    @torch.no_grad()
    def after_backward(self, references: Tensor | None) -> None:
        if self.log_decay and self.task.phase == MAIN.name:
            factor = (self.seen * self.log_decay).exp()
            for p in self.backbone.parameters():
                if p.grad is not None:
                    p.grad.mul_(factor)

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if "seen" in sums:
            self.seen += sums["seen"]

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores: Tensor = self.correction(self(x), learns=False)
        return scores
