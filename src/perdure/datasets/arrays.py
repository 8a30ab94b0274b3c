"""A data set in memory: labeled images of a training and a test split, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.errors import UserError


@dataclass(frozen=True)
class Split:
    """`x`: uint8 [N, C, H, W], `y`: int64 [N]. Raises UserError for any other type or shape.

    `ordered` examples are a stream, which is trained on in its order; others are shuffled.
    """

    x: Tensor
    y: Tensor
    ordered: bool = False

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise UserError(f"images must be uint8 [N, C, H, W], not {_describe(self.x)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise UserError(
                f"labels must be int64 [{len(self.x)}], one an image, not {_describe(self.y)}"
            )

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Arrays:
    """A whole data set; label `y` means `classes[y]`. Raises UserError for a label beyond them."""

    train: Split
    test: Split
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            if not len(split):
                raise UserError(f"the {name} split holds no examples")
            low, high = (int(bound) for bound in split.y.aminmax())
            if low < 0 or high >= len(self.classes):
                raise UserError(
                    f"the {name} labels run from {low} to {high}, "
                    f"but there are {len(self.classes)} classes (0 to {len(self.classes) - 1})"
                )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
