"""GEM: gradient episodic memory (gradient projection by a quadratic program)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method
from perdure.models.gradients import flat_gradient, unflatten
from perdure.models.quadratic import minimize_above
from perdure.models.replay import Replay


class GEM(Method):
    """Change the gradient as little as lets the loss on no earlier task's memory grow.

    Lopez-Paz & Ranzato 2017, "Gradient episodic memory for continual learning", section 3 (the dual
    program) and Alg. 1: with G the gradients g_k of the mean losses on the memory of each earlier
    task, one a row, g̃ = g where Gg ≥ 0, else g̃ = g + Gᵀv, v = argmin ½ vᵀGGᵀv + (Gg)ᵀv, v ≥ 0. The
    memory holds the last examples of each task. As in the authors' code v ≥ margin, which favors
    transfer to the earlier tasks, and a ridge is added to GGᵀ.

    Deviations: one head over all classes, of which later ones count as wrong answers, where the
    authors' code chooses among those of the example's task. The program is solved on the host,
    which waits for k (k + 1) numbers a step.

    Args:
        margin: γ, least value of each v.
        ridge: what is added to the diagonal of GGᵀ; 0 is the paper's own program.
    """

    replays = (Replay("all", "task"),)
    joint = False
    needs_full_parameters = True
    needs_boundaries = True

    def __init__(self, backbone: Backbone, margin: float, ridge: float) -> None:
        super().__init__(backbone)
        for key, value in (("margin", margin), ("ridge", ridge)):
            if not 0 <= value < float("inf"):
                raise UserError(f"model.{key}={value}: bounds GEM's program; must be 0 or more")
        self.margin = margin
        self.ridge = ridge

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def references(self, *replay: Batch) -> Iterator[Tensor]:
        for past in replay:
            yield past.cross_entropy(self(past.x))

    def after_backward(self, references: Tensor | None) -> None:
        if references is None:
            return
        parameters = self.trainable()
        both = torch.cat([references, flat_gradient(parameters)[None]])
        products = (both @ references.T).double().cpu().numpy()
        gram, conflict = products[:-1], products[-1]
        # What is not finite is the trainer's to report.
        if not conflict.min() < 0 or not np.isfinite(products).all():
            return
        gram = (gram + gram.T) / 2
        gram.flat[:: len(gram) + 1] += self.ridge
        v = torch.from_numpy(minimize_above(gram, conflict, self.margin)).to(references)
        for p, part in zip(parameters, unflatten(v @ references, parameters), strict=True):
            p.grad = part.clone() if p.grad is None else p.grad.add_(part)
