"""The supervised contrastive loss (SupCon): examples of one class attract, all others repel."""

from __future__ import annotations

import torch
from torch import Tensor


def supervised_contrastive(z: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Khosla et al. 2020, "Supervised contrastive learning", eq. 2 (L_out).

    The mean over the anchors i of −1/|P(i)| Σ_p log( exp(z_i·z_p / τ) / Σ_{a≠i} exp(z_i·z_a / τ) ),
    with P(i) the other rows of i's label. An anchor that has none counts as 0.

    Args:
        z: unit vectors, float [N, d], two rows or more.
        y: labels, int64 [N].
        temperature: τ.

    Returns:
        [].
    """
    with torch.autocast(z.device.type, enabled=False):  # differences of 1/τ size count
        similarity = z.float() @ z.float().T / temperature
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    others = similarity.masked_fill(itself, -torch.inf)
    log_probability = similarity - torch.logsumexp(others, 1, keepdim=True)
    positive = (y[:, None] == y) & ~itself
    of_anchor = (log_probability * positive).sum(1) / positive.sum(1).clamp(min=1)
    return -of_anchor.mean()
