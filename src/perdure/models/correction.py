"""Bias correction: a linear map of the scores of some classes (BiC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Correction(nn.Module):
    """q = α o + β on the scores o of `classes`, of `n` in all; from (1, 0) on."""

    mask: Tensor

    def __init__(self, classes: Sequence[int], n: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.zeros(1))
        mask = torch.tensor([float(label in classes) for label in range(n)])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, scores: Tensor, learns: bool) -> Tensor:
        """float [B, n] -> [B, n]; without gradients of α and β unless it `learns`."""
        alpha, beta = (
            (self.alpha, self.beta) if learns else (self.alpha.detach(), self.beta.detach())
        )
        return scores * (1 + self.mask * (alpha - 1)) + self.mask * beta
