"""HAL: hindsight anchor learning (an example of each class that would be forgotten most)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.models.anchors import finetuned, learned
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.memory import Memory
from perdure.models.options import at_least
from perdure.models.teacher import evaluating
from perdure.models.virtual_step import stepped


class HAL(Method):
    """Replay, and keep the outputs on learned anchors as they would be without the step.

    Chaudhry et al. 2021, "Using hindsight to anchor past knowledge in continual learning", Alg. 1.
    A step: θ̃ = θ − α ∇ℓ(B ∪ B_M), then one on ℓ(B ∪ B_M) + λ mean_e (f_θ(e) − f_θ̃(e))² at θ. At the
    end of a task each of its classes y has an anchor e, which starts as uniform noise and takes k
    steps of gradient ascent on ℓ(f_θ_M(e), y) − ℓ(f_θ(e), y) − γ ‖φ_θ(e) − φ_y‖², with θ_M the
    network fine-tuned on the memory, and φ_y ← β φ_y + (1 − β) φ(B_y) the running mean of features.

    Deviations: φ_y takes the features before the step; anchors, and the memory in fine-tuning, are
    passed in evaluation mode and leave batch statistics alone; fine-tuning is over all outputs,
    whatever the loss scope. θ̃ is a step of plain SGD.
    The code of Buzzega et al. 2020 has one φ for all classes of a task, and θ_M of a single batch.

    Args:
        strength: λ.
        beta: β.
        gamma: γ.
        anchor_steps: k.
        anchor_lr: learning rate of the anchors and of fine-tuning.
        finetune_epochs: passes over the memory for θ_M.
        finetune_batch_size: examples a step of them.
    """

    replays = 1
    joint = False
    additive = False
    needs_boundaries = True
    needs_full_parameters = True
    base = "er"
    zero_strength = ("strength=0",)
    phi: Tensor

    def __init__(
        self, backbone: Backbone, strength: float, beta: float, gamma: float, anchor_steps: int,
        anchor_lr: float, finetune_epochs: int, finetune_batch_size: int,
    ) -> None:  # fmt: skip
        super().__init__(backbone)
        at_least(0, strength=strength, gamma=gamma, anchor_lr=anchor_lr)
        at_least(0, anchor_steps=anchor_steps, finetune_epochs=finetune_epochs)
        at_least(1, finetune_batch_size=finetune_batch_size)
        if not 0 <= beta <= 1:
            raise UserError(f"model.beta={beta}: weighs a mean; must be from 0 to 1")
        self.strength, self.beta = strength, beta
        self._finetune = (finetune_epochs, finetune_batch_size, anchor_lr)
        self._ascent = (gamma, anchor_steps, anchor_lr)
        self.anchors = torch.zeros(0)

    def grow(self, task: Task) -> None:
        self.classes = Classes.of(task.classes)
        like, n = next(self.backbone.parameters()), self.backbone.n_features
        self.register_buffer("phi", like.new_zeros(len(task.classes), n))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        both = batch + replay[0]
        features = self.backbone.features(both.x)
        loss = both.cross_entropy(self.backbone.head(features))
        places = torch.arange(len(self.classes), device=batch.y.device)[:, None]
        of_class = (self.classes.positions(batch.y) == places).float()
        own = features[: len(batch)].detach().float()
        sums = {"features": of_class @ own, "n": of_class.sum(1, keepdim=True)}
        if len(self.anchors) and self.strength:
            anticipated = stepped(self.backbone, loss, self.lr)
            with evaluating(self.backbone):
                with torch.no_grad():
                    target = functional_call(self.backbone, anticipated, (self.anchors,))
                loss = loss + self.strength * F.mse_loss(self(self.anchors), target)
        return StepOutput(loss, sums=sums)

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        n = sums["n"]
        moved = torch.lerp(sums["features"] / n.clamp(min=1), self.phi, self.beta)
        self.phi.copy_(torch.where(n > 0, moved, self.phi))

    def after_task(self, data: Data, memory: Memory) -> None:
        shape = next(iter(data(1))).x.shape[1:]
        start = torch.rand(len(self.classes), *shape).to(self.phi.device)
        y = torch.tensor(self.classes, device=start.device)
        with evaluating(self.backbone), torch.enable_grad():
            later = finetuned(self.backbone, list(memory.batches(1000)), *self._finetune)
            new = learned(self.backbone, later, start, y, self.phi, *self._ascent)
        self.anchors = torch.cat((self.anchors, new)) if len(self.anchors) else new

    def get_extra_state(self) -> Tensor:
        return self.anchors

    def set_extra_state(self, state: Tensor) -> None:
        self.anchors = state.to(self.phi.device)
