"""Knowledge distillation: what a network should answer by the one that it was (its teacher)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.models.teacher import Teacher


def softened(old: Tensor, z: Tensor, temperature: float) -> Tensor:
    """−Σ_k softmax(o / T)_k log softmax(z / T)_k of each example (Hinton et al. 2015), without T².

    Args:
        old: the teacher's scores o, float [B, n].
        z: the student's, float [B, n].
        temperature: T.

    Returns:
        [B].
    """
    target = (old / temperature).softmax(1)
    return -(target * (z / temperature).log_softmax(1)).sum(1)


def sigmoid_targets(z: Tensor, batch: Batch, old: Teacher, past: Classes) -> Tensor:
    """Targets of one sigmoid a class: 1 for the label, and the teacher's sigmoid for old classes.

    As iCaRL has them (Rebuffi et al. 2017, Alg. 3): of an old class the teacher's answer counts
    even where the class is the label.

    Args:
        z: the student's scores, float [B, classes], whose shape and dtype the targets have.
        batch: the examples.
        old: the teacher.
        past: the old classes.
    """
    target = F.one_hot(batch.y, z.shape[1]).to(z.dtype)
    if not past:
        return target
    is_old = past.mask(torch.arange(z.shape[1], device=z.device))
    return torch.where(is_old, old(batch.x).sigmoid(), target)


def pooled(h: Tensor) -> Tensor:
    """The squares of a feature map, summed over its width and over its height, in length 1.

    As PODNet compares them (Douillard et al. 2020, sec. 3.1).

    Args:
        h: float [B, C, H, W], or [B, C], which is a map of one pixel.

    Returns:
        [B, C (H + W)].
    """
    squares = h.square() if h.dim() > 2 else h.square()[:, :, None, None]
    return F.normalize(torch.cat([squares.sum(3).flatten(1), squares.sum(2).flatten(1)], 1))


def similarity_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖G(a) − G(b)‖² / B², with the rows of the Gram matrix G in length 1.

    Tung & Mori 2019, "Similarity-preserving knowledge distillation", eq. 1 to 4.

    Args:
        a: float [B, n].
        b: float [B, m].
    """
    with torch.autocast(a.device.type, enabled=False):
        first, second = (F.normalize(z.float() @ z.float().T, dim=1) for z in (a, b))
    return (first - second).square().mean()
