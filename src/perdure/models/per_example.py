"""Per-example gradients: a function of each, summed over a batch (Fisher information, MAS)."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

_GRADIENT_ELEMENTS = 2**24

Values = Callable[[Tensor, Tensor], Tensor]
"""Outputs [B, classes] and labels [B] to a scalar an example, [B]."""


def negative_log_likelihood(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y_n|x_n), [B]."""
    return F.cross_entropy(logits, y, reduction="none")


def squared_gradients(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Σ_n (∂(−log p(y_n|x_n)) / ∂θ)² for every trainable parameter θ of `network`.

    Divided by the number of examples this is the diagonal of the empirical Fisher information.
    The arguments are those of `summed_gradients`.
    """
    return summed_gradients(network, x, y, negative_log_likelihood, torch.square)


def summed_gradients(
    network: nn.Module, x: Tensor, y: Tensor, values: Values, of: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Σ_n f(∂v_n / ∂θ) for every trainable parameter θ of `network`, f element by element.

    For a linear layer with inputs a and output gradients δ the sum is f(δ)ᵀ f(a), one product of
    matrices; the gradients of single examples are never made. Other layers go through `vmap`.
    The examples must not interact (no batch statistics): call it in evaluation mode.

    Args:
        network: maps x to its outputs.
        x: float [B, …].
        y: int64 [B]; what `values` does with it is its own matter.
        values: v, a scalar of each example.
        of: f, for which f(ab) = f(a) f(b): `torch.square` or `torch.abs`.

    Returns:
        name → tensor of the parameter's shape.
    """
    sums = _of_linear_layers(network, _linear_layers(network), x, y, values, of)
    rest = _trainable(network, sums)
    if rest:
        n = max(1, _GRADIENT_ELEMENTS // sum(p.numel() for p in rest.values()))
        for xs, ys in zip(x.split(n), y.split(n), strict=True):
            for name, value in _of_others(network, rest, xs, ys, values, of).items():
                sums[name] = sums[name] + value if name in sums else value
    return sums


@dataclass(frozen=True)
class EachGradient:
    """The gradient of each of B examples, without its P numbers where a layer is linear.

    Attributes:
        linear: name → inputs and output gradients of a linear layer, [B, in] and [B, out], and
            whether it has a bias: the gradient is their outer product.
        rest: of all other parameters, [B, P'].
    """

    linear: dict[str, tuple[Tensor, Tensor, bool]]
    rest: Tensor

    def products(self, other: EachGradient) -> Tensor:
        """Inner products with the gradients of other examples of the same network, [B, B']."""
        total = self.rest @ other.rest.T
        for name, (inputs, deltas, bias) in self.linear.items():
            theirs, their_deltas, _ = other.linear[name]
            total = total + (inputs @ theirs.T + bias) * (deltas @ their_deltas.T)
        return total

    def squares(self) -> Tensor:
        """Their squared lengths, [B]."""
        total = self.rest.square().sum(1)
        for inputs, deltas, bias in self.linear.values():
            total = total + (inputs.square().sum(1) + bias) * deltas.square().sum(1)
        return total


def gradients_of_each(network: nn.Module, x: Tensor, y: Tensor, values: Values) -> EachGradient:
    """∂v_n / ∂θ of every example, over all trainable parameters θ of `network`.

    The examples must not interact, as for `summed_gradients`, whose arguments these are.
    """
    layers = _linear_layers(network)
    biased = {name for name, p in network.named_parameters() if p.requires_grad}
    linear = {
        name: (inputs, deltas, (f"{name}.bias" if name else "bias") in biased)
        for name, (inputs, deltas) in _through_linear_layers(network, layers, x, y, values).items()
    }
    covered = {f"{name}.{key}" if name else key for name in linear for key in ("weight", "bias")}
    rest = _trainable(network, covered)
    each = _each(network, rest, x, y, values).values() if rest else ()
    return EachGradient(
        linear, torch.cat([x.new_zeros(len(x), 0), *(g.flatten(1) for g in each)], 1)
    )


def _linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    }


def _trainable(network: nn.Module, without: Container[str]) -> dict[str, Tensor]:
    return {
        name: p.detach()
        for name, p in network.named_parameters()
        if p.requires_grad and name not in without
    }


def _of_linear_layers(
    network: nn.Module,
    linear: dict[str, nn.Linear],
    x: Tensor,
    y: Tensor,
    values: Values,
    of: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    sums = {}
    for name, (inputs, delta) in _through_linear_layers(network, linear, x, y, values).items():
        prefix = f"{name}." if name else ""
        sums[f"{prefix}weight"] = of(delta).T @ of(inputs)
        if linear[name].bias is not None:
            sums[f"{prefix}bias"] = of(delta).sum(0)
    return sums


def _through_linear_layers(
    network: nn.Module, linear: dict[str, nn.Linear], x: Tensor, y: Tensor, values: Values
) -> dict[str, tuple[Tensor, Tensor]]:
    """name → inputs [B, in] and output gradients [B, out] of each that sees one vector a row."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    handles = []
    for name, module in linear.items():

        def keep(_: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            inputs[name], outputs[name] = args[0].detach(), out

        handles.append(module.register_forward_hook(keep))
    with torch.enable_grad():
        total = values(network(x), y).sum()
    for handle in handles:
        handle.remove()
    # A layer that sees several vectors of one example (a sequence) has no such product.
    names = [name for name, out in outputs.items() if out.ndim == 2 and out.shape[0] == len(x)]
    deltas = torch.autograd.grad(total, [outputs[name] for name in names]) if names else ()
    return {name: (inputs[name], delta) for name, delta in zip(names, deltas, strict=True)}


def _of_others(
    network: nn.Module,
    parameters: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    values: Values,
    of: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    each = _each(network, parameters, x, y, values)
    return {name: of(gradient).sum(0) for name, gradient in each.items()}


@torch.no_grad()
def _each(
    network: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor, values: Values
) -> dict[str, Tensor]:
    """The gradient of each example, name → [B, …]."""

    def value(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return values(functional_call(network, weights, (x[None],)), y[None])[0]

    each: dict[str, Tensor] = vmap(grad(value), in_dims=(None, 0, 0))(parameters, x, y)
    return each
