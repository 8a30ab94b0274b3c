"""Per-example gradients: their squares summed over a batch, the diagonal Fisher information."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

_GRADIENT_ELEMENTS = 2**24


def squared_gradients(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Σ_n (∂(−log p(y_n|x_n)) / ∂θ)² for every trainable parameter θ of `network`.

    Divided by the number of examples this is the diagonal of the empirical Fisher information.

    For a linear layer with inputs a and output gradients δ the sum is (δ²)ᵀ(a²), one product of
    matrices; the gradients of single examples are never made. Other layers go through `vmap`.
    The examples must not interact (no batch statistics): call it in evaluation mode.

    Args:
        network: maps x to logits.
        x: float [B, …].
        y: int64 [B].

    Returns:
        name → tensor of the parameter's shape.
    """
    linear = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    }
    sums = _of_linear_layers(network, linear, x, y)
    rest = {
        name: p.detach()
        for name, p in network.named_parameters()
        if p.requires_grad and name not in sums
    }
    if rest:
        n = max(1, _GRADIENT_ELEMENTS // sum(p.numel() for p in rest.values()))
        for xs, ys in zip(x.split(n), y.split(n), strict=True):
            for name, value in _of_others(network, rest, xs, ys).items():
                sums[name] = sums[name] + value if name in sums else value
    return sums


def _of_linear_layers(
    network: nn.Module, linear: dict[str, nn.Linear], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    handles = []
    for name, module in linear.items():

        def keep(_: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            inputs[name], outputs[name] = args[0].detach(), out

        handles.append(module.register_forward_hook(keep))
    with torch.enable_grad():
        loss = F.cross_entropy(network(x), y, reduction="sum")
    for handle in handles:
        handle.remove()
    # A layer that sees several vectors of one example (a sequence) has no such product.
    names = [name for name, out in outputs.items() if out.ndim == 2 and out.shape[0] == len(x)]
    deltas = torch.autograd.grad(loss, [outputs[name] for name in names])
    sums = {}
    for name, delta in zip(names, deltas, strict=True):
        prefix = f"{name}." if name else ""
        sums[f"{prefix}weight"] = delta.square().T @ inputs[name].square()
        if linear[name].bias is not None:
            sums[f"{prefix}bias"] = delta.square().sum(0)
    return sums


@torch.no_grad()
def _of_others(
    network: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    def negative_log_likelihood(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(network, weights, (x[None],))
        return F.cross_entropy(logits, y[None])

    each = vmap(grad(negative_log_likelihood), in_dims=(None, 0, 0))(parameters, x, y)
    return {name: value.square().sum(0) for name, value in each.items()}
