"""HAT: hard attention to the task (a gate on each unit, gradient masks, parameter isolation)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.chain import Gates, layers_of, protect, require_chain
from perdure.backbones.heads import Linear
from perdure.datasets.batch import Batch
from perdure.datasets.loss_scope import scope_of
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.memory import Memory


class HAT(Method):
    """Each task learns which units it uses; what earlier tasks use is not changed any more.

    Serrà et al. 2018, "Overcoming catastrophic forgetting with hard attention to the task", 2.2 to
    2.6. The units of a layer are multiplied by a = σ(s e), e an embedding of the task; over each
    epoch s grows from 1/s_max to s_max, at test it is s_max. The gradient of w_ij in layer l is
    multiplied by 1 − min(A_l,i, A_(l−1),j), A the largest gates so far (`used`); that of e by
    s_max (cosh(s e) + 1) / (s (cosh e + 1)), with |s e| ≤ 50, and |e| ≤ 6 after each step.
    L = CE + c Σ a (1 − A) / Σ (1 − A). There is a head a task: the columns of its classes.

    The gates act before ReLU and max-pooling, which gives the same. The network must be a chain of
    linear and convolutional layers, as `mlp` and `small-conv`: no batch norm, no shortcuts.
    Deviations: gradients are not clipped at 10,000; the learning rate follows `scheduler`, where
    the paper divides it on a plateau.

    Args:
        smax: s_max, at least 1.
        c: weight of the regularizer, 0 or more.
    """

    joint = False
    scenarios = ("class-incremental",)
    loss_scope = "current"
    needs_full_parameters = True
    needs_task_id = True
    needs_boundaries = True
    plain_sgd = True
    used: Tensor

    def __init__(self, backbone: Backbone, smax: float, c: float) -> None:
        super().__init__(backbone)
        if not (smax >= 1 and c >= 0):
            raise UserError(f"model.smax={smax}, model.c={c}: must be at least 1, and at least 0")
        if not isinstance(backbone.head, nn.Linear | Linear):
            raise UserError("head: hat has a linear layer a task; must be head=linear")
        self.smax = smax
        self.c = c
        self.layers = layers_of(backbone)
        self.units = [len(layer.weight) for layer in self.layers]
        self.embeddings = nn.ParameterList()
        self.register_buffer("used", torch.zeros(sum(self.units)))
        self._gates = Gates(self.layers)

    def grow(self, task: Task) -> None:
        self.embeddings.requires_grad_(False)
        self.embeddings.append(nn.Parameter(torch.randn(sum(self.units))))

    def before_task(self, data: Data) -> None:
        if self.task.index == 0:
            require_chain(self.backbone, self.layers, next(iter(data(8))).x)

    @property
    def s(self) -> float:
        """At the current step: 1/s_max at the first one of an epoch, s_max at the last one."""
        last = self.task.steps_per_epoch - 1
        return 1 / self.smax + (self.smax - 1 / self.smax) * (self.task.step / last if last else 1)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if batch.scope != scope_of(self.task.classes):
            raise UserError("training.loss_scope: hat has a head a task; must be null or current")
        a, free = torch.sigmoid(self.s * self.embeddings[self.task.index]), 1 - self.used
        regularizer = (a * free).sum() / free.sum().clamp(min=1e-30)
        loss = batch.cross_entropy(self._through(batch.x, a))
        return loss + self.c * batch.mean(regularizer.expand(len(batch)))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """With the gates of `task`; all are open for one that has not begun."""
        if task is None or task >= len(self.embeddings):
            return self(x)
        return self._through(x, torch.sigmoid(self.smax * self.embeddings[task]))

    def _through(self, x: Tensor, a: Tensor) -> Tensor:
        """Logits [B, classes] with the gates `a`, [units of all layers]."""
        self._gates.values = a.split(self.units)
        logits = self(x)
        self._gates.values = ()
        return logits

    def frozen_state(self) -> dict[str, Tensor]:
        return {f"embeddings.{t}": e.detach() for t, e in enumerate(self.embeddings)}

    @torch.no_grad()
    def after_backward(self, references: Tensor | None) -> None:
        protect(self.layers, self.used.split(self.units))
        e, s = self.embeddings[self.task.index], self.s
        if e.grad is not None:
            steep = torch.cosh((s * e).clamp(-50, 50)) + 1
            e.grad.mul_(self.smax / s * steep / (torch.cosh(e) + 1))

    @torch.no_grad()
    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.embeddings[self.task.index].clamp_(-6, 6)

    @torch.no_grad()
    def after_task(self, data: Data, memory: Memory) -> None:
        a = torch.sigmoid(self.smax * self.embeddings[self.task.index])
        self.used.copy_(torch.maximum(self.used, a))
