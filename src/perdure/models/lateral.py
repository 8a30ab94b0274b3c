"""Lateral connections between networks of one structure: the adapters of progressive networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from perdure.backbones.chain import Layer

ALPHA = 0.1
"""What an adapter's scalars start from."""


class Adapter(nn.Module):
    """U relu(V [α_1 h_1, …, α_k h_k]): what k earlier networks add to the outputs of a layer.

    V maps to as many units as one of them has (a 1x1 convolution before a convolution), U is a
    layer like the one that it adds to, without a bias.

    Args:
        layer: the one that it adds to.
        k: how many earlier networks there are, at least 1.
    """

    def __init__(self, layer: Layer, k: int) -> None:
        super().__init__()
        n_out, n = layer.weight.shape[:2]
        self.alpha = nn.Parameter(torch.full((k,), ALPHA))
        self.v: nn.Module
        self.u: nn.Module
        if isinstance(layer, nn.Linear):
            self.v = nn.Linear(k * n, n)
            self.u = nn.Linear(n, n_out, bias=False)
        else:
            names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
            like: dict[str, Any] = {name: getattr(layer, name) for name in names}
            self.v = nn.Conv2d(k * n, n, 1)
            self.u = nn.Conv2d(n, n_out, bias=False, **like)

    def forward(self, inputs: Iterable[Tensor]) -> Tensor:
        """inputs: of the layer in each earlier network, k of [B, n, …] -> outputs to add."""
        scaled = [a * h for a, h in zip(self.alpha.unbind(), inputs, strict=True)]
        out: Tensor = self.u(torch.relu(self.v(torch.cat(scaled, 1))))
        return out


class Lateral:
    """Runs columns one after another, each with what its adapters make of those before it.

    A hook on each layer notes its input, and adds the output of its adapter.
    """

    def __init__(self) -> None:
        self._inputs: list[dict[int, Tensor]] = []
        self._adapters: Any = None

    def connect(self, layers: Iterable[nn.Module]) -> None:
        """Give the layers of a column, in the order in which they run, their hooks."""
        for number, layer in enumerate(layers):
            layer.register_forward_hook(lambda _, args, out, at=number: self._add(at, args, out))

    def __call__(
        self, columns: Iterable[nn.Module], adapters: Iterable[nn.Module], x: Tensor
    ) -> Tensor:
        """Scores of the last column, [B, classes].

        Args:
            columns: earliest first; the earlier ones are frozen.
            adapters: a list of `Adapter` for each column, for its second layer, the third, …; the
                first column has none.
            x: float [B, C, H, W].
        """
        self._inputs = []
        for column, self._adapters in zip(columns, adapters, strict=True):
            self._inputs.append({})
            scores: Tensor = column(x)
        self._adapters, self._inputs = None, []
        return scores

    def _add(self, layer: int, args: Any, out: Tensor) -> Tensor:
        if self._adapters is None or layer == 0:
            return out
        self._inputs[-1][layer] = args[0]
        earlier = [inputs[layer] for inputs in self._inputs[:-1]]
        return out + self._adapters[layer - 1](earlier) if earlier else out
