"""STAR: stability-inducing weight perturbation (an add-on for replay methods)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.addon import AddOn
from perdure.models.options import at_least

_START = 1e-3
"""‖δ₀‖ / ‖θ_l‖ of each weight: the divergence has no gradient at δ = 0, its minimum."""
_TINY = 1e-20

Weights = Mapping[str, Tensor]


class Star(AddOn):
    """Keep the outputs on replayed examples where the weights are moved against them.

    Eskandar et al. 2025, "STAR: Stability-inducing weight perturbation for continual learning",
    Alg. 1: L + λ · mean KL(q ‖ p_{θ+δ}) over the replayed examples that are classified correctly,
    with q = p_θ held fixed. Each weight's δ_l starts near 0 and takes one step of ascent on that
    divergence, δ_l = δ₀ + γ ‖θ_l‖ g_l / ‖g_l‖. δ is held fixed, so that the term's gradient at θ is
    the divergence's at θ + δ. Biases and other vectors are not moved; with fewer than two examples
    that are classified correctly nothing is added.

    Deviations from the authors' code: θ itself is never changed, where that adds δ and subtracts
    it again, which rounds; ‖δ₀‖ is 1e-3 ‖θ_l‖, where that has 1e-20 ‖θ_l‖ a number, which float32
    loses, so that the step follows rounding errors; the passes leave batch norm's running
    statistics alone.

    Args:
        backbone: the network.
        base: the base method's hyperparameters.
        strength: λ.
        perturbation: γ.
    """

    zero_strength = ("strength=0",)

    def __init__(
        self, backbone: Backbone, base: Mapping[str, Any], strength: float, perturbation: float
    ) -> None:
        super().__init__(backbone, base, strength != 0)
        at_least(0, group="addon", strength=strength, perturbation=perturbation)
        self.strength = strength
        self.perturbation = perturbation

    def extra(self, past: Batch) -> Tensor:
        weights = {n: p for n, p in self.named_parameters() if p.requires_grad and p.ndim > 1}
        with torch.no_grad():
            q = self.probabilities(past, {}).exp()
        delta = self.worst(past, q, weights)
        moved = {name: p + delta[name] for name, p in weights.items()}
        return self.strength * self.divergence(past, q, moved)

    def worst(self, past: Batch, q: Tensor, weights: Weights) -> Weights:
        """δ of each weight, by one step of ascent from a random start near 0."""
        theta = {name: p.detach() for name, p in weights.items()}
        delta = {}
        for name, p in theta.items():
            z = torch.randn_like(p)
            delta[name] = (_START * p.norm() / z.norm() * z).requires_grad_()
        away = self.divergence(past, q, {name: p + delta[name] for name, p in theta.items()})
        gradients = torch.autograd.grad(
            away, list(delta.values()), allow_unused=True, materialize_grads=True
        )
        return {
            name: delta[name].detach() + self.perturbation * p.norm() / (g.norm() + _TINY) * g
            for (name, p), g in zip(theta.items(), gradients, strict=True)
        }

    def divergence(self, past: Batch, q: Tensor, weights: Weights) -> Tensor:
        """Mean KL(q ‖ p) over the examples that q classifies correctly, with these weights, []."""
        each = F.kl_div(self.probabilities(past, weights), q, reduction="none").sum(1)
        correct = (q.argmax(1) == past.y_in_scope).to(each.dtype)
        n = correct.sum()
        return (each * correct).sum() / n.clamp(min=1) * (n >= 2)

    def probabilities(self, past: Batch, weights: Weights) -> Tensor:
        """log p(y|x), [B, classes in scope], with these weights; batch norm counts nothing."""
        state = {**{name: value.clone() for name, value in self.named_buffers()}, **weights}
        logits: Tensor = functional_call(self, state, (past.x,))
        return past.in_scope(logits).float().log_softmax(1)
