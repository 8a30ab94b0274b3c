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
