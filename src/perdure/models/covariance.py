"""Covariance matrices of few examples (FeCAM): shrinkage, and correlations."""

from __future__ import annotations

import torch
from torch import Tensor


def shrunk(cov: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """S + γ₁ V₁ I + γ₂ V₂ (1 − I), V₁ and V₂ the mean diagonal and off-diagonal element of S.

    cov: [d, d] -> [d, d].
    """
    identity = torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    v1 = cov.diagonal().mean()
    v2 = (cov.sum() - cov.diagonal().sum()) / max(1, cov.numel() - len(cov))
    return cov + gamma1 * v1 * identity + gamma2 * v2 * (1 - identity)


def correlation(cov: Tensor) -> Tensor:
    """S_ij / √(S_ii S_jj), 0 where a variance is 0. cov: [d, d] -> [d, d]."""
    variance = cov.diagonal()
    scale = variance.clamp(min=torch.finfo(cov.dtype).tiny).rsqrt()
    return scale[:, None] * cov * scale
