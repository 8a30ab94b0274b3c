"""MIR: maximally interfered retrieval (replay of what the next step would harm most)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method
from perdure.models.replay import Replay
from perdure.models.teacher import evaluating
from perdure.models.virtual_step import stepped


class MIR(Method):
    """Replay the candidates whose loss would grow most by a step on the new examples alone.

    Aljundi et al. 2019, "Online continual learning with maximally interfered retrieval", section
    3.1 and Alg. 1: θᵛ = θ − α ∇L(f_θ(X_t), Y_t), a virtual step of plain SGD, and the criterion
    MI-1 of a candidate x drawn from the memory, s(x) = l(f_θᵛ(x), y) − l(f_θ(x), y); one step
    follows on the new batch and on the candidates with the largest s.

    Deviations: the candidates are drawn from all that is stored, where the authors' code leaves out
    the current task's; they are scored in evaluation mode, so that scoring changes no batch
    statistics and draws no random numbers; the sum of the two means is the loss, as in the
    authors' code, where ER has the mean over both batches together.

    Args:
        candidates: how many examples are drawn to choose from.
        top: how many of them are replayed.
    """

    replays = (Replay(),)
    additive = False
    needs_full_parameters = True

    def __init__(self, backbone: Backbone, candidates: int, top: int) -> None:
        super().__init__(backbone)
        if not 1 <= top <= candidates:
            raise UserError(
                f"model.top={top}, model.candidates={candidates}: so many of the candidates are "
                "replayed; top must be from 1 to candidates"
            )
        self.replays = (Replay(candidates),)
        self.top = top

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (candidates,) = replay
        loss = batch.cross_entropy(self(batch.x))
        if not candidates:
            return loss
        interference = self.interference(loss, candidates)
        chosen = interference.topk(min(self.top, len(candidates))).indices
        logits = candidates.in_scope(self(candidates.x[chosen]))
        return loss + F.cross_entropy(logits, candidates.y_in_scope[chosen])

    def interference(self, loss: Tensor, candidates: Batch) -> Tensor:
        """How much each candidate's loss grows by a virtual step along the gradient of `loss`.

        loss: [], of the new examples; its graph is kept. -> float [B].
        """
        virtual = stepped(self.backbone, loss, self.lr)
        with torch.no_grad(), evaluating(self.backbone):
            after = functional_call(self.backbone, virtual, (candidates.x,))
            return _losses(after, candidates) - _losses(self(candidates.x), candidates)


def _losses(logits: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy of each example, [B]."""
    return F.cross_entropy(batch.in_scope(logits), batch.y_in_scope, reduction="none")
