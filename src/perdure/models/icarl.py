"""iCaRL: incremental classifier and representation learning (exemplars, nearest class mean)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import UNSEEN
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.distillation import sigmoid_targets
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.models.teacher import Teacher


class ICaRL(Method):
    """Learn features with distillation, choose exemplars, classify by the nearest of their means.

    Rebuffi et al. 2017, "iCaRL: incremental classifier and representation learning":

    - Alg. 3: on the task's examples and the exemplars, for classes s … t, new in the task
      L = −Σ_{y=s}^{t} [δ log g_y + (1−δ) log(1−g_y)] − Σ_{y<s} [q_y log g_y + (1−q_y) log(1−g_y)],
      with g the sigmoid of the logits and q that of the network before the task.
    - Alg. 4 and 5: exemplars by herding, as many of each class (`buffer=herding`, the default).
    - Alg. 1: argmin_y ‖φ(x) − μ_y‖, where φ has length 1, and so has μ_y, the mean of φ over the
      exemplars of class y.

    Deviations: as in the authors' code the loss is the mean over the outputs, not their sum, and
    over all of the benchmark: later classes have the target 0 (`training.loss_scope=seen` is the
    formula's). The code also puts exemplars' mirror images into the means, which is an option
    here. The mean of a class without exemplars, as within its first task, is that of the task's
    examples.

    Args:
        mirror: whether the mirror images of exemplars count for the means.
    """

    keeps_exemplars = True
    store_at = "task"
    joint = False
    scenarios = ("class-incremental",)
    needs_boundaries = True
    needs_full_parameters = True
    needs_n_classes = True

    means: Tensor
    known: Tensor

    def __init__(self, backbone: Backbone, mirror: bool = False) -> None:
        super().__init__(backbone)
        self.mirror = mirror

    def grow(self, task: Task) -> None:
        self.old = Teacher(self.backbone)

    def phases(self, task: Task) -> Sequence[Phase]:
        return (Phase(data="task+memory"),)

    def before_task(self, data: Data) -> None:
        self.old.learn(self.backbone)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        z = self(batch.x)
        target = sigmoid_targets(z, batch, self.old, self.task.past)
        z, target = batch.in_scope(z), batch.in_scope(target)
        bce = F.binary_cross_entropy_with_logits(z, target, reduction="none")
        return batch.mean(bce.mean(1))

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        device = next(self.backbone.parameters()).device
        labels = torch.arange(self.backbone.n_classes, device=device)
        stored = torch.isin(labels, torch.tensor(memory.classes(), device=device))
        sums = torch.zeros(len(labels), self.backbone.n_features, device=device)
        n = torch.zeros(len(labels), device=device)
        for batches, counted in ((memory.batches(1000), stored), (data(1000), ~stored)):
            for batch in batches:
                weight = (labels[:, None] == batch.y).to(sums.dtype) * counted[:, None]
                for x in (batch.x, batch.x.flip(-1)) if self.mirror else (batch.x,):
                    sums += weight @ self._unit_features(x)
                n += weight.sum(1)
        self.known = n > 0
        self.means = F.normalize(sums, dim=1)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        # Of vectors of length 1, ‖φ − μ‖² = 2 − 2 ⟨φ, μ⟩.
        scores = F.linear(self._unit_features(x), self.means)
        return scores.masked_fill(~self.known, UNSEEN)

    def _unit_features(self, x: Tensor) -> Tensor:
        return F.normalize(self.backbone.features(x).float(), dim=1)
