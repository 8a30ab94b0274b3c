"""BiC: large scale incremental learning (bias correction of the new classes' scores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Task
from perdure.models.correction import Correction
from perdure.models.distillation import softened
from perdure.models.options import at_least
from perdure.models.phase import Phase
from perdure.models.teacher import Taught, frozen


class BiC(Taught):
    """Distillation, then a linear correction of the new classes' scores on held-out examples.

    Wu et al. 2019, "Large scale incremental learning", sec. 3 and 4, for n old classes and m new:

    - stage 1, on the task's examples and the exemplars without those held out, eq. 1 to 3:
      L = λ L_d + (1−λ) CE with λ = n / (n + m) and L_d = −Σ_k π̂_k log π_k over the old classes,
      the softmax of both networks' scores over T.
    - stage 2, with the network fixed, eq. 4 and 5: q_k = α o_k + β for the new classes, by
      cross-entropy on examples held out of both, as many of each class.

    The (α, β) of every earlier task stay and take part in the teacher's scores, in stage 1 and in
    predictions. The first task has no stage 2 and holds nothing out. The exemplars are chosen
    after stage 2, by herding as in the paper (`buffer=herding`, the default here).

    Args:
        temperature: T.
        held_out: part of each old class's exemplars that is held out, and as many of a new class.
        bias_epochs: of stage 2.
        bias_lr: its learning rate.
    """

    needs_n_classes = True

    def __init__(
        self,
        backbone: Backbone,
        temperature: float,
        held_out: float,
        bias_epochs: int,
        bias_lr: float,
    ) -> None:
        super().__init__(backbone)
        if not temperature > 0:
            raise UserError(f"model.temperature={temperature}: divides scores; must be above 0")
        if not 0 < held_out < 1:
            raise UserError(f"model.held_out={held_out}: is a part; must be between 0 and 1")
        at_least(1, bias_epochs=bias_epochs)
        at_least(0, bias_lr=bias_lr)
        self.temperature = temperature
        self.held_out = held_out
        self.bias_epochs = bias_epochs
        self.bias_lr = bias_lr
        self.corrections = nn.ModuleList()

    def grow(self, task: Task) -> None:
        super().grow(task)
        if task.index:
            self.corrections.append(Correction(task.classes - task.past, self.backbone.n_classes))

    def phases(self, task: Task) -> Sequence[Phase]:
        if not task.index:
            return (Phase(data="task+memory"),)
        return (
            Phase(data="task+memory", held_out=(self.held_out, self.held_out)),
            Phase(
                "bias",
                "held-out",
                self.bias_epochs,
                optimizer={"lr": self.bias_lr},
                class_balanced=True,
            ),
        )

    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        part = self.backbone if phase.is_main else self.corrections[-1]
        return [{"params": list(part.parameters())}]

    def forward(self, x: Tensor) -> Tensor:
        return self._corrected(self.backbone(x))

    def _corrected(self, z: Tensor) -> Tensor:
        for number, each in enumerate(self.corrections, 1):
            z = each(z, self.task.phase == "bias" and number == len(self.corrections))
        return z

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.task.phase == "bias":
            with frozen(self.backbone):
                z = self.backbone(batch.x)
            return batch.cross_entropy(self._corrected(z))
        z, past = self(batch.x), self.task.past
        loss = batch.cross_entropy(z)
        if not past:
            return loss
        with torch.no_grad():
            old = past.select(self._corrected(self.old(batch.x)))
        distilled = batch.mean(softened(old, past.select(z), self.temperature))
        share = len(past) / len(self.task.seen)
        return share * distilled + (1 - share) * loss
