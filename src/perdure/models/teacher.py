"""A teacher (knowledge distillation): the network as it was, frozen and in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.models.base import Data, Method, Task


class Teacher(nn.Module):
    """A frozen copy of a network, whatever mode its owner is in.

    To be made in `grow`, where the network has its structure, and filled by `learn` in
    `before_task`: it then answers as the network did before the task.

    Args:
        network: what is copied.
    """

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = deepcopy(network).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        super().train(False)
        return self

    def learn(self, network: Backbone) -> None:
        """Become a copy of `network`, which has the same structure."""
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Scores. x: float [B, C, H, W] -> [B, classes]."""
        scores: Tensor = self.network(x)
        return scores

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The input of the head. x: float [B, C, H, W] -> [B, n_features]."""
        return self.network.features(x)

    @torch.no_grad()
    def maps_and_features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The backbone's `feature_maps`, and the input of the head. x: float [B, C, H, W]."""
        maps = self.network.feature_maps(x)
        return maps, self.network.pool(maps[-1])


class Distilled(Method):
    """A class-incremental method whose network before the task teaches it."""

    joint = False
    scenarios = ("class-incremental",)
    loss_scope = "seen"
    needs_boundaries = True
    needs_full_parameters = True

    def grow(self, task: Task) -> None:
        self.old = Teacher(self.backbone)

    def before_task(self, data: Data) -> None:
        self.old.learn(self.backbone)


class Taught(Distilled):
    """One that keeps exemplars, too, chosen when a task ends."""

    keeps_exemplars = True
    store_at = "task"


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


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients meanwhile, so that nothing of `network` changes."""
    with evaluating(network), torch.no_grad():
        yield
