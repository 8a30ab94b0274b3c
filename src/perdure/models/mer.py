"""MER: meta-experience replay (Reptile on replayed examples, gradient alignment)."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method, StepOutput
from perdure.models.replay import Replay


class MER(Method):
    """Move only part of the way to where SGD on batches of old and new examples leads.

    Riemer et al. 2019, "Learning to learn without forgetting by maximizing transfer and minimizing
    interference", Alg. 1. For a new example, s inner batches of it and k − 1 stored ones: from
    θᵂ = θ, SGD on the inner batch, then θ ← θᵂ + β (θ − θᵂ). Where θᴬ was θ before the first of
    them, at last θ ← θᴬ + γ (θ − θᴬ).
    `inner="sequential"` takes a step on each example, as Alg. 1 does; the new one comes last, and
    stored ones are drawn one by one, as in the authors' code. With `inner="batch"` there is one
    step on the mean over the inner batch, as in later comparisons (Buzzega et al. 2020); β is then
    a factor of the learning rate, and with s = 1 so is γ.

    Deviations: a step may bring several new examples, which are one mean; the statistics of batch
    norm are not interpolated.

    Args:
        beta: β, within an inner batch.
        gamma: γ, across the inner batches of a step.
        repeats: s, inner batches.
        inner: "batch" or "sequential".
        replayed: k − 1, stored examples of an inner batch.
    """

    replays = (Replay(),)
    needs_full_parameters = True
    plain_sgd = True

    def __init__(
        self, backbone: Backbone, beta: float, gamma: float, repeats: int, inner: str, replayed: int
    ) -> None:
        super().__init__(backbone)
        for key, rate in (("beta", beta), ("gamma", gamma)):
            if not 0 <= rate <= 1:
                raise UserError(f"model.{key}={rate}: interpolates weights; must be from 0 to 1")
        for key, n in (("repeats", repeats), ("replayed", replayed)):
            if n < 1:
                raise UserError(f"model.{key}={n}: counts parts of a step; must be 1 or more")
        if inner not in ("batch", "sequential"):
            raise UserError(
                f"model.inner={inner}: there is no such kind; must be batch or sequential"
            )
        self.beta = beta
        self.gamma = gamma
        self.sequential = inner == "sequential"
        self.steps = replayed + 1 if self.sequential else 1
        self.repeats = repeats
        self.replays = (Replay(1 if self.sequential else replayed),)
        self._within: list[Tensor] | None = None
        self._across: list[Tensor] | None = None

    def updates(self, batch: Batch) -> int:
        return self.repeats * self.steps

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        if self.sequential and not self._ends_inner_batch:
            return past.cross_entropy(self(past.x)) if past else StepOutput(None)
        chosen = batch if self.sequential else batch + past
        return chosen.cross_entropy(self(chosen.x))

    @property
    def _ends_inner_batch(self) -> bool:
        return (self.update + 1) % self.steps == 0

    def after_backward(self, references: Tensor | None) -> None:
        # The first step with a loss is the first that moves the weights.
        if self._within is None:
            self._within = [p.detach().clone() for p in self.trainable()]
            self._across = self._across or self._within

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if self._ends_inner_batch and self._within is not None:
            self._go_from(self._within, self.beta)
            self._within = None

    def after_batch(self) -> None:
        if self._across is not None:
            self._go_from(self._across, self.gamma)
            self._across = None

    @torch.no_grad()
    def _go_from(self, start: list[Tensor], rate: float) -> None:
        """θ ← start + rate (θ − start)."""
        if rate < 1:
            for p, origin in zip(self.trainable(), start, strict=True):
                p.copy_(torch.lerp(origin, p, rate))
