"""Gradient-based sample selection (GSS): examples whose gradients point in different directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from perdure.buffers.loss_aware import chosen
from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.sampling import Uniforms, subsets
from perdure.errors import UserError

FIRST_SCORE = 0.1
"""Of an example with nothing to be compared with."""


class GradientSelection(StepPolicy):
    """GSS-Greedy (Aljundi et al. 2019, "Gradient based sample selection", Alg. 2).

    A new example's score is c = 1 + the largest cosine of its gradient with those of n random
    stored examples. A full buffer keeps it only if c < 1: candidate i is drawn with probability
    C_i / Σ C, and is replaced with probability C_i / (C_i + c).

    Deviations: examples that are offered together are compared with the same n examples, of the
    memory before them; each has its own gradient, where the authors' code looks at the gradient of
    the whole batch first. Scores are not scaled to [0, 1] before the draw, as that code does.

    Args:
        size: capacity in examples.
        batch_size: examples that a replay draw takes.
        comparisons: n.
    """

    name: ClassVar[str] = "gss"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    numbers_per_example: ClassVar[int] = 3  # two, and n for all together

    def __init__(self, size: int, batch_size: int, comparisons: int) -> None:
        super().__init__(size, batch_size)
        if comparisons < 1:
            raise UserError(f"buffer.comparisons={comparisons}: must be 1 or more")
        self.comparisons = comparisons
        self._scores = np.zeros(size)

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        n, held = len(offer), self.held
        compared = min(self.comparisons, held)
        u = uniforms.random(compared + 2 * n)
        scores = self._scores_of(offer, u[:compared])
        pick, replace = u[compared:].reshape(2, n)
        free = max(0, self.size - held)
        placed: dict[int, int] = {}
        for row in (*range(min(free, n)), *(free + np.flatnonzero(scores[free:] < 1)).tolist()):
            slot, score = held, scores[row]
            if held == self.size:
                slot = chosen(self._scores, pick[row])
                stays = self._scores[slot]
                if not replace[row] * (stays + score) < stays:
                    continue
            held = max(held, slot + 1)
            self._scores[slot], placed[slot] = score, row
        return list(placed.values()), list(placed.keys())

    def _scores_of(self, offer: Offer, u: np.ndarray) -> np.ndarray:
        """c of each offered example, float64 [B]; `u` chooses what it is compared with."""
        gradients = offer.info.get("gradients")
        if gradients is None or not len(u):
            return np.full(len(offer), FIRST_SCORE)
        cosines = gradients.cosines(subsets(u[None], self.held)[0])
        scores: np.ndarray = np.maximum(cosines.max(1) + 1, 0)
        return scores

    def state_dict(self) -> dict[str, Any]:
        return {"scores": torch.tensor(self._scores[: self.held])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scores[: len(state["scores"])] = state["scores"]
