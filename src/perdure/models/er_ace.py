"""ER-ACE: experience replay with an asymmetric cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method


class ERACE(Method):
    """New examples compete only among the classes of their own batch, replayed ones among all.

    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual
    learning", sec. 4: L = CE(X_in; C_curr) + CE(X_bf; C_old ∪ C_curr), so that a new class's
    first gradients do not push the old ones' logits down. C_curr is the set of classes in the
    incoming batch, as in the authors' code.
    """

    replays = 1
    joint = False
    scenarios = ("class-incremental",)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        logits, past_logits = self.logits(batch, past)
        present = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        present = present.index_fill(0, batch.all_y, True)
        loss = batch.cross_entropy(self._only(logits, present))
        if past:
            loss = loss + past.cross_entropy(past_logits, self.task.seen)
        return loss

    @staticmethod
    def _only(logits: Tensor, classes: Tensor) -> Tensor:
        return logits.masked_fill(~classes, torch.finfo(logits.dtype).min)
