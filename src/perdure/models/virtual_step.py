"""A virtual step: the weights that a step of plain SGD would give, without taking it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stepped(network: nn.Module, loss: Tensor, lr: float) -> dict[str, Tensor]:
    """θ − α ∇loss of the parameters that are trained, by name, for `functional_call`.

    Args:
        network: the network, with weights θ.
        loss: [], whose graph is kept.
        lr: α.
    """
    now = {name: p for name, p in network.named_parameters() if p.requires_grad}
    gradient = torch.autograd.grad(
        loss, list(now.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    with torch.no_grad():
        return {name: p - lr * g for (name, p), g in zip(now.items(), gradient, strict=True)}
