"""The base of backbones: a feature extractor in stages (feature maps), and one head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from perdure.backbones.heads import Head
from perdure.errors import UserError

_DEPENDENT = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)
"""Modules with batch statistics or with random numbers (the last two have dropout inside)."""


def treats_rows_alike(network: nn.Module) -> bool:
    """Whether no module in `network` mixes the examples of a batch or draws random numbers."""
    return not any(isinstance(module, _DEPENDENT) for module in network.modules())


class Backbone(nn.Module):
    """A subclass defines `stages` and `pool`, or `features` alone if it has no feature maps.

    `n_features`, `n_classes` and `head` are here. A constructor takes `input_shape` (C, H, W) and
    `n_classes` first, which the dataset knows, and then hyperparameters of its own, which the
    config knows. `head` is a linear layer, or whatever else a constructor sets; the group `head`
    of the configuration replaces it (`perdure.backbones.heads`), unless it says `linear`.
    """

    n_features: int
    n_classes: int
    head: nn.Module

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_classes = positive("n_classes", n_classes)
        self.head = nn.Linear(n_features, n_classes)

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """The feature maps one after another, each computed when it is asked for.

        A map must not be changed in place by what follows it.
        """
        raise UserError(
            f"backbone._target_={type(self).__module__}.{type(self).__qualname__}: has no feature "
            "maps; define `stages` and `pool`, or choose a backbone of Perdure."
        )

    def pool(self, last: Tensor) -> Tensor:
        """What the network does between the last feature map and the head, its activation first.

        last: float, as the last of `feature_maps` -> [B, n_features].
        """
        raise NotImplementedError

    def feature_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the stages, first to last, each before the activation that follows it.

        PODNet (Douillard et al. 2020) distills them so; other methods apply `torch.relu`. For maps
        and logits of one forward pass: `head(pool(feature_maps(x)[-1]))` equals `forward(x)`.

        x: float [B, C, H, W] -> floats [B, C_i, H_i, W_i]; of an MLP [B, n_i].

        Raises:
            UserError: a subclass that defines `features` alone.
        """
        return tuple(self.stages(x))

    def features(self, x: Tensor) -> Tensor:
        """The input of the head. x: float [B, C, H, W] -> [B, n_features]."""
        last = x
        for stage in self.stages(x):  # one at a time: evaluation frees the earlier ones
            last = stage
        return self.pool(last)

    @property
    def rows_are_independent(self) -> bool:
        """Whether an example's output depends on nothing but the example and the weights.

        Batch norm and dropout are found among the modules; a subclass that mixes examples or draws
        random numbers in other ways overrides this.
        """
        return treats_rows_alike(self)

    @property
    def grows(self) -> bool:
        """Whether the head appends the classes of each task: `grow` is called before a task."""
        return isinstance(self.head, Head) and self.head.grows

    def grow(self, classes: Sequence[int]) -> None:
        """Give a growing head weights for those of `classes` that it does not have yet.

        New weights are drawn from torch's generator, on the CPU. A fixed head stays as it is, and
        so does one that is no `perdure.backbones.heads.Head`.
        """
        if isinstance(self.head, Head):
            self.head.grow(classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores. x: float [B, C, H, W] -> [B, n_classes]; without a head [B, n_features]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def positive(key: str, value: int) -> int:
    """`value` if it is an integer above zero; UserError names `key` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{key} must be an integer of at least 1, not {value!r}.")
    return value


def image_shape(value: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """`input_shape` as (C, H, W).

    Raises:
        UserError: it is not three positive integers, or a side has less than `smallest` pixels.
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 3:
        raise UserError(f"input_shape must be (channels, height, width), not {value!r}.")
    channels, height, width = (positive(f"input_shape[{i}]", n) for i, n in enumerate(value))
    if min(height, width) < smallest:
        raise UserError(
            f"input_shape must be at least {smallest}x{smallest} for this backbone, not {value!r}."
        )
    return channels, height, width
