"""Networks that are a plain chain of layers (feed-forward, no skip connections, no batch norm).

In a chain the inputs of a layer are the outputs of the one before it, unit by unit, so that a
method can close or protect single units (HAT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.errors import UserError

Layer = nn.Linear | nn.Conv2d


def layers_of(backbone: Backbone) -> list[Layer]:
    """The linear and convolutional layers before the head, from the input on.

    What else may lie between them works on each unit, and gives 0 for 0 (ReLU, pooling, dropout).

    Raises:
        UserError: the network has other weights, as batch norm, or its layers do not fit together.
    """
    head = set(backbone.head.modules())
    body = [module for module in backbone.modules() if module not in head]
    layers = [module for module in body if isinstance(module, nn.Linear | nn.Conv2d)]
    inside = {id(value) for layer in layers for value in layer.parameters()}
    every = [*backbone.named_parameters(), *backbone.named_buffers()]
    own = {id(value) for module in head for value in (*module.parameters(), *module.buffers())}
    other = [name for name, value in every if id(value) not in inside | own]
    units = 0
    for layer in layers:
        n = layer.weight.shape[1]
        if units and (n % units or (isinstance(layer, nn.Conv2d) and n != units)):
            other.append(f"a layer of {n} inputs after one of {units} units")
        units = layer.weight.shape[0]
    if other or not layers:
        raise _no_chain(backbone, other[0] if other else "no hidden layer")
    return layers


@torch.no_grad()
def require_chain(backbone: Backbone, layers: list[Layer], x: Tensor) -> None:
    """Run the network in evaluation mode, and see whether `layers` are a chain.

    Each runs once, in their order, and nothing of the input gets past a layer that gives zeros.

    Args:
        backbone: the network; in evaluation mode afterwards.
        layers: those of `layers_of`.
        x: inputs, float [B, C, H, W], not all alike.

    Raises:
        UserError: they are not.
    """
    backbone.eval()
    for closed in layers:
        order: list[nn.Module] = []

        def hook(layer: nn.Module, _: Any, out: Tensor, at: Any = closed, to: Any = order) -> Any:
            to.append(layer)
            return torch.zeros_like(out) if layer is at else out

        handles = [layer.register_forward_hook(hook) for layer in layers]
        features = backbone.features(x)
        for handle in handles:
            handle.remove()
        if order != layers:
            raise _no_chain(backbone, "layers that run in another order than they are defined in")
        if not torch.equal(features, features[:1].expand_as(features)):
            raise _no_chain(backbone, "a connection around a layer")


class Gates:
    """Multiplies the outputs of each layer's units by a gate, before the activation.

    A positive gate gives the same after a ReLU or max-pooling.

    Args:
        layers: of a chain; each gets a forward hook.

    Attributes:
        values: a gate for each unit, [units] a layer; nothing leaves the outputs as they are.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.values: Sequence[Tensor] = ()
        for number, layer in enumerate(layers):
            layer.register_forward_hook(lambda _, __, out, at=number: self._gated(at, out))

    def _gated(self, layer: int, output: Tensor) -> Tensor:
        """Units are the second dimension of a layer's output."""
        if not self.values:
            return output
        return output * self.values[layer].view(-1, *[1] * (output.dim() - 2))


@torch.no_grad()
def protect(layers: Sequence[Layer], used: Sequence[Tensor]) -> None:
    """Multiply the gradient of each weight by 1 − min(use of its unit, use of its input).

    Of the first layer's inputs, and of biases, the unit's own use counts.

    Args:
        layers: of a chain.
        used: how much each unit is used, [units] a layer, from 0 to 1.
    """
    before: Tensor | None = None
    for layer, use in zip(layers, used, strict=True):
        weight, held = layer.weight, use[:, None]
        if before is not None:  # each feature map is several inputs of a linear layer
            repeats = weight.shape[1] // len(before)
            held = torch.minimum(held, before.repeat_interleave(repeats))
        if weight.grad is not None:
            weight.grad.mul_(1 - held.view(*held.shape, *[1] * (weight.dim() - 2)))
        if layer.bias is not None and layer.bias.grad is not None:
            layer.bias.grad.mul_(1 - use)
        before = use


def _no_chain(backbone: Backbone, why: str) -> UserError:
    kind = type(backbone)
    return UserError(
        f"backbone._target_={kind.__module__}.{kind.__qualname__}: has {why}; the method "
        "needs a plain chain of linear and convolutional layers, as backbone=mlp and "
        "backbone=small-conv are"
    )
