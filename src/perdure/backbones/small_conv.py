"""A small convolutional net (CNN): the CIFAR network of Synaptic Intelligence."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.backbones.base import Backbone, image_shape, positive

SMALLEST = 10
"""Height and width in pixels below which nothing is left after the second pooling."""


class SmallConv(Backbone):
    """Twice (3x3 conv, 3x3 conv, 2x2 max-pooling), then one dense layer: Zenke et al. 2017 (SI).

    The network of its split CIFAR-10/100, which is Keras's CIFAR-10 example and which VCL and its
    successors took over: 32, 32, 64, 64 channels and 512 features, ReLU throughout; in each pair
    the first convolution is padded, the second is not. 1,250,858 parameters for ten classes.
    Weights are U(±sqrt(6 / (fan_in + fan_out))), Glorot & Bengio 2010, and biases zero. Images must
    be at least 10x10.

    Deviations: the paper has dropout of 1/4, 1/4 and 1/2 after the poolings and the dense layer,
    which `dropout=true` adds. Without it, examples do not depend on random numbers, and the parts
    of a step share a forward pass. The released code starts the head's weights at zero.

    Args:
        width: channels of the first pair; the second has twice, the dense layer 16 times as many.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        n_classes: int,
        width: int = 32,
        dropout: bool = False,
    ) -> None:
        channels, *size = image_shape(input_shape, SMALLEST)
        super().__init__(16 * positive("backbone.width", width), n_classes)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv4 = nn.Conv2d(2 * width, 2 * width, 3)
        height, wide = (((n - 2) // 2 - 2) // 2 for n in size)
        self.dense = nn.Linear(2 * width * height * wide, 16 * width)
        self.drop1, self.drop2, self.drop3 = (
            nn.Dropout(rate) if dropout else nn.Identity() for rate in (0.25, 0.25, 0.5)
        )
        assert isinstance(self.head, nn.Linear)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.dense, self.head):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        x = self.conv2(torch.relu_(self.conv1(x)))
        yield x
        x = self.drop1(F.max_pool2d(torch.relu(x), 2))
        yield self.conv4(torch.relu_(self.conv3(x)))

    def pool(self, last: Tensor) -> Tensor:
        """ReLU and max-pooling, then the dense layer."""
        x = self.drop2(F.max_pool2d(torch.relu(last), 2))
        # Not in place: the Fisher information reads the dense layer's output by a hook.
        features: Tensor = self.drop3(torch.relu(self.dense(x.flatten(1))))
        return features
