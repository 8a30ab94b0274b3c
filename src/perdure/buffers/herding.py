"""Herding: exemplars whose mean feature stays closest to the class's (iCaRL's selection)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from perdure.buffers.exemplars import Exemplars
from perdure.buffers.policy import Offer
from perdure.buffers.sampling import Uniforms

_SMALL = 1e-12


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
        features = torch.as_tensor(offer.info["features"]).detach().cpu().double().numpy()
        return [rows[herd(features[rows], n)] for rows, n in wanted]


def herd(features: np.ndarray, m: int) -> np.ndarray:
    """The greedy choice of exemplars of one class: Algorithm 4 on L2-normalized features.

    p_k = argmin_x ‖μ − (φ(x) + Σ_{j<k} φ(p_j)) / k‖² without repetition; the average is not
    normalized again, as in the authors' code. Of those that are equal up to 10⁻¹² the first is
    chosen, and all is computed in float64 on the host, so that the choice is the same everywhere.

    Args:
        features: float64 [n, d].
        m: how many to choose.

    Returns:
        int64 [min(m, n)], rows in the order of choice.
    """
    phi = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SMALL)
    mean, total = phi.mean(0), np.zeros(phi.shape[1])
    taken = np.zeros(len(phi), dtype=bool)
    chosen = np.empty(min(m, len(phi)), dtype=np.int64)
    for k in range(len(chosen)):
        distance = np.square(mean - (phi + total) / (k + 1)).sum(1)
        distance[taken] = np.inf
        best = int(np.argmax(distance <= distance.min() + _SMALL))
        chosen[k], taken[best] = best, True
        total += phi[best]
    return chosen
