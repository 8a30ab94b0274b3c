"""Anchors: an example of each class, learned so that the network would forget it most (HAL)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch, join


def finetuned(
    network: Backbone, stored: Sequence[Batch], epochs: int, batch_size: int, lr: float
) -> Backbone:
    """A copy of `network` after SGD on the stored examples in random order, in evaluation mode."""
    later = deepcopy(network).eval()
    optimizer = torch.optim.SGD([p for p in later.parameters() if p.requires_grad], lr)
    for _ in range(epochs if stored else 0):
        whole = join(stored)
        for rows in torch.randperm(len(whole)).to(whole.y.device).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(later(whole.x[rows]), whole.y[rows]).backward()
            optimizer.step()
    return later.requires_grad_(False)


def learned(
    network: Backbone, later: Backbone, start: Tensor, y: Tensor, phi: Tensor,
    gamma: float, steps: int, lr: float,
) -> Tensor:  # fmt: skip
    """Gradient ascent on ℓ(later(e), y) − ℓ(network(e), y) − γ ‖φ(e) − φ_y‖², all anchors at once.

    Args:
        network: as it is, in evaluation mode; φ are its features.
        later: after fine-tuning.
        start: float [n, C, H, W], where the anchors e start.
        y: int64 [n], their labels.
        phi: float [n, n_features], φ_y.
        gamma: γ.
        steps: of ascent.
        lr: its learning rate.

    Returns:
        Float [n, C, H, W].
    """
    e = start.clone()
    for _ in range(steps):
        e.requires_grad_()
        features = network.features(e)
        forgotten = F.cross_entropy(later(e), y, reduction="sum")
        kept = F.cross_entropy(network.head(features), y, reduction="sum")
        gain = forgotten - kept - gamma * (features - phi).square().sum()
        (gradient,) = torch.autograd.grad(gain, e)
        e = e.detach() + lr * gradient
    return e.detach()
