"""Several proxies a class (PODNet): neighborhood component analysis, and k-means for the start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nca(scores: Tensor, y: Tensor, margin: Tensor | float) -> Tensor:
    """max(0, −log( exp(s_y − m) / Σ_{i≠y} exp(s_i) )) of each example.

    Douillard et al. 2020, sec. 3.2, after Goldberger et al. 2005 and Movshovitz-Attias et al. 2017.

    Args:
        scores: s, float [B, n].
        y: columns of the labels, int64 [B].
        margin: m, [] or [1].

    Returns:
        [B].
    """
    s, column = scores.float(), y[:, None]
    # Not −∞, which has no gradient where the label's class is the only one.
    others = s.scatter(1, column, torch.finfo(s.dtype).min)
    return (others.logsumexp(1) - s.gather(1, column).squeeze(1) + margin).relu()


def released_nca(scores: Tensor, y: Tensor) -> Tensor:
    """What PODNet's released code computes instead of `nca`, with any margin.

    It takes the margin from every score, where it cancels, and leaves exp(max_i s_i) in the
    denominator in place of exp(s_y).

    Args:
        scores: s, float [B, n].
        y: columns of the labels, int64 [B].

    Returns:
        [B].
    """
    s, column = scores.float(), y[:, None]
    others = s.scatter(1, column, s.amax(1, keepdim=True))
    return (others.logsumexp(1) - s.gather(1, column).squeeze(1)).relu()


def k_means(points: Tensor, k: int, passes: int = 20) -> Tensor:
    """Lloyd's algorithm (1982), from `k` random points; a center without points stays.

    Args:
        points: float [n, d], one or more; where there are fewer than `k`, some are taken again.
        k: centers.
        passes: over the points.

    Returns:
        float [k, d].
    """
    order = torch.randperm(len(points))[torch.arange(k) % len(points)]
    centers = points[order.to(points.device)]
    for _ in range(passes):
        nearest = torch.cdist(points, centers).argmin(1)
        member = F.one_hot(nearest, k).to(points.dtype)
        n = member.sum(0)[:, None]
        centers = torch.where(n > 0, member.T @ points / n.clamp(min=1), centers)
    return centers
