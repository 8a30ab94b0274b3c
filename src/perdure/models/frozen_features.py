"""Methods on features that stay as they are, or do from the first task on (NCM, RanPAC, ACIL).

What they share: the base phase, features of examples, a random projection, scores of seen classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import UNSEEN
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.features_state import features_state
from perdure.models.phase import MAIN, Phase

BASE = "base"
"""Name of the phase that trains the network."""

_ROWS = 500
"""Examples of a task whose features are computed at a time."""


class FrozenFeatures(Method):
    """The network is trained on the first task for `base_epochs`, or stays as it was made.

    The base phase has a constant learning rate; nothing moves a weight in any other phase, where
    subclasses take no optimizer step. A subclass defines `loss`.

    Args:
        base_epochs: epochs of ordinary training on the first task, before the method's own part.
    """

    needs_full_parameters = True
    needs_n_classes = True

    def __init__(self, backbone: Backbone, base_epochs: int = 0) -> None:
        super().__init__(backbone)
        if isinstance(base_epochs, bool) or not isinstance(base_epochs, int) or base_epochs < 0:
            raise UserError(f"model.base_epochs={base_epochs}: must be an integer of 0 or more")
        self.base_epochs = base_epochs
        self.backbone.requires_grad_(base_epochs > 0)

    def phases(self, task: Task) -> Sequence[Phase]:
        has_base = self.base_epochs and task.index == 0
        return (Phase(BASE, epochs=self.base_epochs), MAIN) if has_base else (MAIN,)

    @property
    def in_base_phase(self) -> bool:
        """Whether the network itself is trained at this step."""
        return self.task.phase == BASE

    def base_loss(self, batch: Batch) -> Loss:
        """The cross-entropy in the base phase; no optimizer step in any other."""
        if self.in_base_phase:
            return batch.cross_entropy(self(batch.x))
        return StepOutput(None)

    def frozen_state(self) -> dict[str, Tensor]:
        return features_state(self.backbone)

    @torch.no_grad()
    def features(self, batch: Batch) -> Tensor:
        """Features of examples without augmentation, float [B, d]; batch norm in evaluation."""
        self.backbone.eval()
        return self.backbone.features(batch.transform(batch.raw, None))

    def features_of(self, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
        """Features float [B, d] and labels int64 [B] of a task's examples, in the data's order."""
        for batch in data(_ROWS):
            yield self.features(batch).float(), batch.y


class Projected(FrozenFeatures):
    """Features through a fixed random layer: h = relu(f R), R ~ N(0, 1), float [d, M].

    R is saved, beside the matrix [M, M] of which it is a small part.

    Args:
        projection: M.
        base_epochs: as in `FrozenFeatures`.

    Attributes:
        counts: int64 [classes], examples taken in.
    """

    needs_boundaries = True
    R: Tensor
    counts: Tensor

    def __init__(self, backbone: Backbone, projection: int, base_epochs: int = 0) -> None:
        super().__init__(backbone, base_epochs)
        if isinstance(projection, bool) or not isinstance(projection, int) or projection < 1:
            raise UserError(f"model.projection={projection}: must be an integer of 1 or more")
        self.register_buffer("R", torch.randn(backbone.n_features, projection))
        self.register_buffer("counts", torch.zeros(backbone.n_classes, dtype=torch.int64))

    def frozen_state(self) -> dict[str, Tensor]:
        return {**super().frozen_state(), "R": self.R}

    def one_hot(self, y: Tensor) -> Tensor:
        """Y, float64 [B, classes]; those without examples yet are columns of zeros."""
        return F.one_hot(y, len(self.counts)).double()

    def of_seen(self, scores: Tensor) -> Tensor:
        """Scores [B, classes], `UNSEEN` where a class has had no example."""
        return scores.masked_fill(self.counts == 0, UNSEEN)


class RecursiveRidge(torch.nn.Module):
    """Ridge regression by recursive least squares (Woodbury's identity), in float64.

    After any number of batches W = (Σ HᵀH + γ I)⁻¹ Σ HᵀY, up to rounding.

    Args:
        n: M, length of the rows of H.
        classes: columns of Y.
        gamma: γ.

    Attributes:
        W: float64 [M, classes].
        inverse: (Σ HᵀH + γ I)⁻¹, float64 [M, M].
    """

    W: Tensor
    inverse: Tensor

    def __init__(self, n: int, classes: int, gamma: float) -> None:
        super().__init__()
        self.register_buffer("W", torch.zeros(n, classes, dtype=torch.float64))
        self.register_buffer("inverse", torch.eye(n, dtype=torch.float64) / gamma)

    @torch.no_grad()
    def update(self, h: Tensor, targets: Tensor) -> None:
        """Take in H, float64 [B, M], with the targets Y, float64 [B, classes]."""
        gain = self.inverse @ h.T  # R Hᵀ
        within = h @ gain + torch.eye(len(h), dtype=h.dtype, device=h.device)
        self.inverse.sub_(gain @ torch.linalg.solve(within, gain.T))
        # The new inverse times Hᵀ is the gain of the whole batch.
        self.W.add_(gain @ torch.linalg.solve(within, targets - h @ self.W))
