"""The gradient of all parameters as one vector (flatten, unflatten), as projections need it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def flat_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters' `.grad` one after another, [P]; zeros where there is none."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    )


def unflatten(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The parts of `flat`, [P], one in the shape of each parameter."""
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]
