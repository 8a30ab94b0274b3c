"""LiDER: Lipschitz-driven rehearsal (an add-on for replay methods)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.addon import AddOn
from perdure.models.base import Data
from perdure.models.lipschitz import block_constant
from perdure.models.options import at_least
from perdure.models.teacher import frozen

_BATCH = 100


class Lider(AddOn):
    """Keep the Lipschitz constants of the network's blocks small around replayed examples.

    Bonicelli et al. 2022, "On the effectiveness of Lipschitz-driven rehearsal in continual
    learning", eqs. 7 and 8: L + α mean L_l + β mean |L_l − relu(c_l)| over the blocks l and the
    replayed examples. L_l is the largest singular value of A = F_{l−1} F_lᵀ / n, the products of
    the channels of a block's input and output over its n positions; at each position the channels
    have length 1, and those of the output are averaged to as many as the input has. The budgets
    c_l are learned, from the mean L_l of the first task's examples on.

    Deviations from the authors' code: there the budgets stay as they are in effect, since they
    never reach the optimizer; here both terms share one draw. As there, a block is what lies
    between two maps of the backbone, before their activation, or between the image and the first.
    Of gray images, of one channel, the first block's L_l has no gradient.

    Args:
        backbone: the network; its maps must have positions.
        base: the base method's hyperparameters.
        input_shape: of the images, (C, H, W).
        lipschitz: α.
        lipschitz_target: β.
        iterations: power iterations that give the singular vector, which is then held fixed; None
            computes the singular value exactly.
    """

    has_budgets: Tensor
    zero_strength = ("lipschitz=0", "lipschitz_target=0")

    def __init__(
        self,
        backbone: Backbone,
        base: Mapping[str, Any],
        input_shape: tuple[int, int, int],
        lipschitz: float,
        lipschitz_target: float,
        iterations: int | None,
    ) -> None:
        super().__init__(backbone, base, bool(lipschitz or lipschitz_target))
        at_least(0, group="addon", lipschitz=lipschitz, lipschitz_target=lipschitz_target)
        if iterations is not None:
            at_least(1, group="addon", iterations=iterations)
        with frozen(backbone):
            maps = backbone.feature_maps(torch.zeros(1, *input_shape))
        if any(found.ndim != 4 for found in maps):
            raise UserError(
                f"addon=lider: {type(backbone).__name__} has maps without positions, of which each "
                "L_l is 1; choose a convolutional backbone"
            )
        self.lipschitz = lipschitz
        self.lipschitz_target = lipschitz_target
        self.iterations = iterations
        if lipschitz_target:
            self.budgets = nn.Parameter(torch.zeros(len(maps)))
            self.register_buffer("has_budgets", torch.tensor(False))

    def before_task(self, data: Data) -> None:
        super().before_task(data)
        if self.lipschitz_target and not self.has_budgets:
            with frozen(self.backbone):
                found = torch.cat([self.constants(batch.x) for batch in data(_BATCH)])
            self.budgets.data.copy_(found.mean(0))
            self.has_budgets.fill_(True)

    def extra(self, past: Batch) -> Tensor:
        found = self.constants(past.x)
        loss = self.lipschitz * found.mean()
        if self.lipschitz_target:
            away = (found - torch.relu(self.budgets)).abs().mean()
            loss = loss + self.lipschitz_target * away
        return loss.float()

    def constants(self, x: Tensor) -> Tensor:
        """L_l of each example and block, float64 [B, blocks]."""
        maps = pairwise((x, *self.backbone.feature_maps(x)))
        return torch.stack([block_constant(*pair, self.iterations) for pair in maps], 1)
