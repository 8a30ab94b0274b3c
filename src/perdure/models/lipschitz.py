"""Estimates of the Lipschitz constant of a block of a network from its input and output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = torch.finfo(torch.float32).eps


def block_constant(front: Tensor, back: Tensor, iterations: int | None) -> Tensor:
    """The largest singular value of A = F Gᵀ / n for each example, float64 [B].

    F is the input, G the output. At each position the channels have length 1; those of G are first
    averaged to as many as F has, those of F then to the n positions of G.

    Args:
        front: F, float [B, C, H, W].
        back: G, float [B, C', H', W'], with H' <= H.
        iterations: power iterations that give the singular vector, which is then held fixed; None
            computes the singular value exactly.
    """
    size = (back.shape[2], back.shape[3])
    g = F.adaptive_avg_pool1d(back.double().flatten(2).mT, front.shape[1])  # [B, n, C]
    f = _unit(front.double(), 1)
    if f.shape[2:] != back.shape[2:]:
        f = F.adaptive_avg_pool2d(f, size)
    a = f.flatten(2) @ _unit(g, 2) / (size[0] * size[1])  # [B, C, C]
    if iterations is None:
        squared: Tensor = torch.linalg.eigvalsh(a @ a.mT)[:, -1]
        return squared.clamp(min=_TINY**2).sqrt()
    with torch.no_grad():
        v = torch.randn_like(a[:, :, :1])
        for _ in range(iterations):
            v = _unit(a @ (a.mT @ v), 1)
    constant: Tensor = torch.linalg.vector_norm(a.mT @ v, dim=(1, 2))
    return constant


def _unit(vectors: Tensor, dim: int) -> Tensor:
    """The vectors along `dim`, of length 1; zeros stay."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / (lengths + _TINY)
