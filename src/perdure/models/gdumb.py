"""GDumb: greedy sampler and dumb learner (training from scratch on the memory alone)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.cutmix import mix
from perdure.models.memory import Memory
from perdure.models.options import at_least
from perdure.models.phase import Phase
from perdure.models.teacher import Teacher


class GDumb(Method):
    """Store a balanced sample of the stream; to predict, train a fresh network on it.

    Prabhu, Torr & Dokania 2020, "GDumb: a simple approach that questions our progress in continual
    learning", sec. 3: the memory is filled by Alg. 1 (`buffer=greedy-balanced`, the default here),
    nothing is trained meanwhile. At the end of each task that is evaluated a network is trained on
    the memory from its first weights on, by cosine annealing with warm restarts after 1, 3, 7, …
    epochs and with CutMix (Yun et al. 2019), over the classes seen so far.

    Deviations: no warm-up epoch at a tenth of the learning rate; the optimizer is the
    configuration's; a task's examples are offered when it ends, in the order of the data.

    Args:
        epochs: passes over the memory; of 2^k − 1 the last one ends a cycle.
        batch_size: examples a step.
        lr_min: learning rate at the end of a cycle.
        cutmix: probability of CutMix at a step, its area uniform.
        clip_norm: largest norm of the gradient.
    """

    keeps_exemplars = True
    store_at = "task"
    joint = False
    loss_scope = "seen"
    needs_boundaries = True
    needs_full_parameters = True

    def __init__(
        self,
        backbone: Backbone,
        epochs: int,
        batch_size: int,
        lr_min: float,
        cutmix: float,
        clip_norm: float,
    ) -> None:
        super().__init__(backbone)
        at_least(1, epochs=epochs, batch_size=batch_size)
        at_least(0, lr_min=lr_min)
        if not 0 <= cutmix <= 1:
            raise UserError(f"model.cutmix={cutmix}: is a probability; must be between 0 and 1")
        if not clip_norm > 0:
            raise UserError(f"model.clip_norm={clip_norm}: bounds a norm; must be above 0")
        self.cutmix = cutmix
        self.first = Teacher(backbone)
        restarts = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
        self._fit = Phase(
            "memory",
            "memory",
            epochs,
            batch_size,
            scheduler={"_target_": restarts, "T_0": 1, "T_mult": 2, "eta_min": lr_min},
            clip_norm=clip_norm,
            after_storing=True,
            evaluated=True,
        )

    def phases(self, task: Task) -> Sequence[Phase]:
        return Phase(epochs=0), self._fit

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        self.backbone.load_state_dict(self.first.network.state_dict())

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        # Drawn on the host, whatever the device, so that nothing waits.
        if len(batch) < 2 or torch.rand(1).item() >= self.cutmix:
            return batch.cross_entropy(self(batch.x))
        other = torch.randperm(len(batch)).to(batch.y.device, non_blocking=True)
        x, share = mix(batch.x, other, *torch.rand(3).tolist())
        z, y = batch.in_scope(self(x)), batch.y_in_scope
        own, mixed = (F.cross_entropy(z, labels, reduction="none") for labels in (y, y[other]))
        return batch.mean(share * own + (1 - share) * mixed)
