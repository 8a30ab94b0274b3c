"""RanDumb: random Fourier features of pixels and streaming linear discriminant analysis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.errors import UserError
from perdure.models.options import above
from perdure.models.slda import SLDA


class RanDumb(SLDA):
    """Nothing is learned but a mean of each class and one covariance of all.

    Prabhu et al. 2024, "RanDumb: random representations outperform online continually learned
    representations", section 2. Of an input x, φ(x) = √2 cos(Ω x + b), Ω ~ N(0, 2γ), b ~ U(0, 2π)
    (Rahimi & Recht 2007), so that φ(x)ᵀφ(x') / D approaches the kernel exp(−γ |x − x'|²); then
    classes have means in φ, and the least Mahalanobis distance by the pooled, shrunk covariance
    decides: `SLDA`, whose statistics grow with every example, seen once.

    Deviations: images are augmented as the configuration says, and not mirrored besides; the
    recursions are SLDA's. The configured network is not used. Ω and b follow from a number that
    the state holds, and are drawn when the first input shows how many pixels there are.

    Args:
        embedding: D, the number of random features.
        gamma: γ of the kernel.
        shrinkage: ε of SLDA.
    """

    def __init__(self, backbone: Backbone, embedding: int, gamma: float, shrinkage: float) -> None:
        if isinstance(embedding, bool) or not isinstance(embedding, int) or embedding < 1:
            raise UserError(f"model.embedding={embedding}: must be an integer of 1 or more")
        above(0, gamma=gamma)
        super().__init__(backbone, shrinkage, d=embedding)
        self.embedding, self.gamma = embedding, gamma
        self.seed = int(torch.randint(2**62, ()))
        self._drawn: tuple[Tensor, Tensor] | None = None

    def embed(self, x: Tensor) -> Tensor:
        """φ of inputs [B, C, H, W], float [B, D]."""
        x = x.flatten(1)
        if self._drawn is None:
            generator = torch.Generator().manual_seed(self.seed)
            omega = torch.randn(x.shape[1], self.embedding, generator=generator)
            b = 2 * math.pi * torch.rand(self.embedding, generator=generator)
            self._drawn = math.sqrt(2 * self.gamma) * omega.to(x.device), b.to(x.device)
        omega, b = self._drawn
        return math.sqrt(2) * torch.cos(x @ omega + b)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.seed)

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self._drawn = int(state), None
