"""Loss-aware reservoir sampling: an example that the network knows well gives way to a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from perdure.buffers.policy import Offer, Placement, StepPolicy
from perdure.buffers.sampling import Uniforms

UNKNOWN = -1.0
"""Stands for the loss of an example that another buffer held; no loss is negative."""


class LossAware(StepPolicy):
    """LARS (Buzzega et al. 2020, "Rethinking experience replay: a bag of tricks").

    As in a reservoir, example number n is stored with probability B / n. It replaces example i with
    probability S_i / Σ S, where S_i = −l_i, shifted so that the smallest is 0, and l_i is the
    loss of i when it was stored or last replayed. Equal losses make all equally likely. An example
    whose loss is not known, after a fork, has the mean of the others' until it is replayed.

    Deviations: losses are computed in evaluation mode; n counts from 1 (the authors' code accepts
    with probability B / (n − 1)).
    """

    name: ClassVar[str] = "loss-aware"
    needs: ClassVar[tuple[str, ...]] = ("losses",)
    numbers_per_example: ClassVar[int] = 2

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size)
        self._losses = np.zeros(size)
        self._labels = np.zeros(size, dtype=np.int64)

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        n, held = len(offer), self.held
        keep, pick = uniforms.random((2, n))
        losses = offer.info.get("losses")
        losses = np.full(n, UNKNOWN) if losses is None else losses
        numbers = self.seen + 1 + np.arange(n)
        placed: dict[int, int] = {}
        for row in np.flatnonzero(keep * numbers < self.size).tolist():
            slot = held if held < self.size else self._victim(pick[row])
            held = max(held, slot + 1)
            self._losses[slot], self._labels[slot] = losses[row], offer.labels[row]
            placed[slot] = row
        return list(placed.values()), list(placed.keys())

    def replayed(self, slots: np.ndarray, losses: np.ndarray) -> None:
        self._losses[slots] = losses

    def scores(self, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """S of each stored example before the shift, float64 [B], from its loss and label."""
        return -losses

    def _victim(self, pick: float) -> int:
        """The slot that `pick` in [0, 1) chooses with probability S_i / Σ S, of a full buffer."""
        unknown = self._losses == UNKNOWN
        mean = 0.0 if unknown.all() else self._losses[~unknown].mean()
        scores = self.scores(np.where(unknown, mean, self._losses), self._labels)
        return chosen(scores - scores.min(), pick)

    def state_dict(self) -> dict[str, Any]:
        losses, labels = (torch.tensor(each[: self.held]) for each in (self._losses, self._labels))
        return {"losses": losses, "labels": labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        held = len(state["losses"])
        self._losses[:held], self._labels[:held] = state["losses"], state["labels"]


class LossAwareBalanced(LossAware):
    """LARS and balance together, the memory of ER with tricks (the same paper).

    S_i = α (−l_i) + c_i, where c_i is how many stored examples have the label of i, and
    α = Σ c / Σ l gives both parts the same weight.

    Deviation: the authors' code divides the first part by the mean loss times the mean count as
    well, so that the count alone decides.
    """

    name: ClassVar[str] = "loss-aware-balanced"

    def scores(self, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
        counts = np.bincount(labels)[labels]
        total = losses.sum()
        alpha = counts.sum() / total if total > 0 else 0.0
        scores: np.ndarray = counts - alpha * losses
        return scores


def chosen(weights: np.ndarray, u: float) -> int:
    """The index that u in [0, 1) chooses in proportion to `weights`, [n]; uniform if all are 0."""
    sums = np.cumsum(weights)
    if not sums[-1] > 0:
        return int(u * len(weights))
    # u·Σ may round up to Σ: then it is the last one with a weight.
    last = int(np.searchsorted(sums, sums[-1]))
    return min(int(np.searchsorted(sums, u * sums[-1], side="right")), last)
