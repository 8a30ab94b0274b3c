"""Layers computed from a state dict, for tests that write a network out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def shuffled(network: nn.Module) -> dict[str, Tensor]:
    """Fills all tensors, batch norm's statistics too, with other numbers; returns them."""
    torch.manual_seed(1)
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            noise = torch.rand_like(tensor)
            tensor.copy_(noise + 0.5 if "running_var" in name else 0.6 * (noise - 0.4))
    return state


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm in evaluation mode."""

    def of(part: str) -> Tensor:
        return state[f"{name}.{part}"][:, None, None]

    return (x - of("running_mean")) / (of("running_var") + 1e-5).sqrt() * of("weight") + of("bias")
