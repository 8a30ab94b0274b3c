"""WA: weight aligning (maintaining discrimination and fairness in class-incremental learning)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Linear
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Task
from perdure.models.distillation import softened
from perdure.models.memory import Memory
from perdure.models.options import above
from perdure.models.phase import Phase
from perdure.models.teacher import Taught


class WA(Taught):
    """Distillation, then new classes' weights scaled to the average length of the old ones'.

    Zhao et al. 2020, "Maintaining discrimination and fairness in class incremental learning", sec.
    3 and 4, for n old classes and m new ones, on the task's examples and the exemplars:

    - L = (1−λ) CE + λ L_KD with λ = n / (n + m) and L_KD the cross-entropy of both networks'
      softmax over T, over the old classes;
    - after a task, W_new ← γ W_new with γ = Mean(‖w_old‖) / Mean(‖w_new‖). The aligned network is
      measured, and is the next teacher. The head has no bias: it stays zero;
    - weights of the head that are below 0 after a step are set to 0, so that lengths go with scores
      (weight clipping).

    The exemplars are chosen by herding, as in the paper (`buffer=herding`, the default here).

    Args:
        temperature: T.
        clip: whether the head's weights are kept from being negative.
    """

    def __init__(self, backbone: Backbone, temperature: float, clip: bool) -> None:
        super().__init__(backbone)
        above(0, temperature=temperature)
        if not isinstance(backbone.head, nn.Linear | Linear):
            raise UserError("head: WA aligns weights without bias; must be head=linear")
        self.temperature = temperature
        self.clip = clip
        self._hold_biases()

    @property
    def layers(self) -> list[nn.Linear]:
        """Of the head: one, or one a task."""
        return [part for part in self.backbone.head.modules() if isinstance(part, nn.Linear)]

    @torch.no_grad()
    def _hold_biases(self) -> None:
        for layer in self.layers:
            layer.bias.requires_grad_(False).zero_()

    def grow(self, task: Task) -> None:
        self._hold_biases()
        super().grow(task)

    def phases(self, task: Task) -> Sequence[Phase]:
        return (Phase(data="task+memory"),)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        z, past = self(batch.x), self.task.past
        loss = batch.cross_entropy(z)
        if not past:
            return loss
        old = past.select(self.old(batch.x))
        distilled = batch.mean(softened(old, past.select(z), self.temperature))
        share = len(past) / len(self.task.seen)
        return (1 - share) * loss + share * distilled

    @torch.no_grad()
    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if self.clip:
            for layer in self.layers:
                layer.weight.clamp_(min=0)

    @torch.no_grad()
    def after_task(self, data: Data, memory: Memory) -> None:
        past, new = self.task.past, self.task.classes - self.task.past
        if not (past and new):
            return
        head, layers = self.backbone.head, self.layers
        lengths = torch.cat([layer.weight for layer in layers]).norm(dim=1)
        classes = head.classes if isinstance(head, Linear) else range(len(lengths))
        labels = torch.tensor(classes, device=lengths.device)
        gamma = lengths[past.mask(labels)].mean() / lengths[new.mask(labels)].mean()
        scale = torch.where(new.mask(labels), gamma, 1.0)
        sizes = [len(layer.weight) for layer in layers]
        for layer, part in zip(layers, scale.split(sizes), strict=True):
            layer.weight.mul_(part[:, None])
