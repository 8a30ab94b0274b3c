"""The base of backbones: a feature extractor and one linear head (classifier)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perdure.errors import UserError

_DEPENDENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)
"""Modules with batch statistics or with random numbers (the last two have dropout inside)."""


class Backbone(nn.Module):
    """A subclass defines `features`; `n_features`, `n_classes` and `head` are here.

    Its constructor takes `input_shape` (C, H, W) and `n_classes` first, which the dataset knows,
    and then hyperparameters of its own, which the config knows.
    """

    n_features: int
    n_classes: int
    head: nn.Linear

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_classes = positive("n_classes", n_classes)
        self.head = nn.Linear(n_features, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """The input of the head. x: float [B, C, H, W] -> [B, n_features]."""
        raise NotImplementedError

    @property
    def rows_are_independent(self) -> bool:
        """Whether an example's output depends on nothing but the example and the weights.

        Batch norm and dropout are found among the modules; a subclass that mixes examples or draws
        random numbers in other ways overrides this.
        """
        return not any(isinstance(module, _DEPENDENT) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Logits. x: float [B, C, H, W] -> [B, n_classes]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def positive(key: str, value: int) -> int:
    """`value` if it is an integer above zero; UserError names `key` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{key} must be an integer of at least 1, not {value!r}.")
    return value


def image_shape(value: Sequence[int]) -> tuple[int, int, int]:
    """`input_shape` as (C, H, W); UserError unless it is three positive integers."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        raise UserError(f"input_shape must be (channels, height, width), not {value!r}.")
    channels, height, width = (positive(f"input_shape[{i}]", n) for i, n in enumerate(value))
    return channels, height, width
