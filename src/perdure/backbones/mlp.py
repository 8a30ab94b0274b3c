"""MLP: the multi-layer perceptron of the MNIST benchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone, image_shape, positive
from perdure.errors import UserError


class MLP(Backbone):
    """Flatten, then Linear and ReLU for each width in `hidden`, then the head.

    784-100-100-10 is the network of Lopez-Paz & Ranzato 2017 (Gradient Episodic Memory) and Buzzega
    et al. 2020 (Dark Experience). Weights are U(±sqrt(6 / (fan_in + fan_out))), Glorot & Bengio
    2010, and biases zero, the head's included.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise UserError(f"backbone.hidden must be a list of layer widths, not {hidden!r}.")
        widths = [positive(f"backbone.hidden[{i}]", width) for i, width in enumerate(hidden)]
        widths = [math.prod(image_shape(input_shape)), *widths]
        super().__init__(widths[-1], n_classes)
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        for layer in (*self.layers, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """What each hidden layer gives, [B, n]; without any, the flattened input alone."""
        x = x.flatten(1)
        if not self.layers:
            yield x
        for i, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if i else x)
            yield x

    def pool(self, last: Tensor) -> Tensor:
        return torch.relu(last) if self.layers else last
