"""Gradient projection: the memory's average gradient, and the batch's without its conflict."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.models.base import Method
from perdure.models.gradients import unflatten


class Projected(Method):
    """Project the gradient so that the average loss on a draw from the memory does not grow.

    Chaudhry et al. 2019, eq. 11: g̃ = g − (gᵀg_ref / g_refᵀg_ref) g_ref where gᵀg_ref < 0, with
    g_ref the gradient on a batch drawn from the memory. A subclass says what the memory holds.
    """

    replays = 1
    joint = False
    needs_full_parameters = True

    def references(self, *replay: Batch) -> Iterator[Tensor]:
        (past,) = replay
        if past:
            yield past.cross_entropy(self(past.x))

    def after_backward(self, references: Tensor | None) -> None:
        if references is None:
            return
        parameters = self.trainable()
        pairs = [
            (p.grad, ref)
            for p, ref in zip(parameters, unflatten(references[0], parameters), strict=True)
            if p.grad is not None
        ]
        g = torch.cat([part.flatten() for part, _ in pairs])
        g_ref = torch.cat([ref.flatten() for _, ref in pairs])
        conflict = torch.dot(g, g_ref).clamp(max=0) / torch.dot(g_ref, g_ref).clamp(min=1e-30)
        for part, ref in pairs:
            part.sub_(conflict * ref)
