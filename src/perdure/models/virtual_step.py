"""A virtual step: the weights that a step of plain SGD would give, without taking it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; afterwards each module is in the mode that it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
