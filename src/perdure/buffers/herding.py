"""Herding: exemplars whose mean feature stays closest to the class's (iCaRL's selection)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.buffers.exemplars import Exemplars
from perdure.buffers.policy import Offer
from perdure.buffers.sampling import Uniforms


class Herding(Exemplars):
    """iCaRL's exemplar sets (Rebuffi et al. 2017, Algorithms 4 and 5).

    Each class seen has m = ⌊B / t⌋ places, t being the number of classes seen (the paper's floor:
    what is left over stays empty), in the order in which herding chose them.
    """

    name: ClassVar[str] = "herding"
    needs: ClassVar[tuple[str, ...]] = ("features",)
    numbers_per_example: ClassVar[int] = 0

    def pick(
        self, offer: Offer, wanted: Sequence[tuple[np.ndarray, int]], uniforms: Uniforms
    ) -> list[np.ndarray]:
        if "features" not in offer.info:  # taken over from another buffer: the order that they have
            return [rows[:n] for rows, n in wanted]
        features = torch.as_tensor(offer.info["features"]).detach().cpu()
        return [rows[herd(features[torch.from_numpy(rows)], n)] for rows, n in wanted]


def herd(features: Tensor, m: int) -> np.ndarray:
    """The greedy choice of exemplars of one class: Algorithm 4 on L2-normalized features.

    p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖ without repetition; of equals the first. The
    average is not normalized again, as in the authors' code. Computed in float64 on the host, so
    that the choice is the same on every kind of device.

    Args:
        features: float [n, d] on the host.
        m: how many to choose.

    Returns:
        int64 [min(m, n)], rows in the order of choice.
    """
    phi = F.normalize(features.double(), dim=1)
    mean, total = phi.mean(0), torch.zeros(phi.shape[1], dtype=torch.float64)
    taken = torch.zeros(len(phi), dtype=torch.bool)
    chosen = np.empty(min(m, len(phi)), dtype=np.int64)
    for k in range(len(chosen)):
        distance = (mean - (phi + total) / (k + 1)).square().sum(1)
        best = int(distance.masked_fill_(taken, torch.inf).argmin())
        chosen[k] = best
        taken[best] = True
        total += phi[best]
    return chosen
