"""Transforms and augmentation (scale, normalize, random crop and flip) as batched operations.

They run on the device that holds the images.

A transform has two parts. `draw` makes the random choices for each example, on the host, from a
generator of its own; calling it with raw examples and those choices is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.errors import UserError


class Scale:
    """uint8 0…255 → float32 in [0, 1] (what torchvision calls ToTensor), optionally normalized.

    Args:
        mean: per-channel mean of the scaled data; None leaves [0, 1].
        std: per-channel standard deviation, given together with `mean`.
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        if (mean is None) != (std is None) or (mean and std and len(mean) != len(std)):
            raise UserError(
                f"dataset.transform: mean={mean} and std={std} must be given together, one float "
                "a channel"
            )
        if std and not all(s > 0 for s in std):
            raise UserError(f"dataset.transform.std={std}: every entry must be above 0")
        self._mean_std = None if mean is None or std is None else (tuple(mean), tuple(std))
        self._factor: Tensor | None = None
        self._shift: Tensor | None = None

    @property
    def is_random(self) -> bool:
        """Whether it draws; a subclass that defines `draw` does."""
        return type(self).draw is not Scale.draw

    def draw(self, n: int, generator: np.random.Generator) -> Tensor | None:
        """Random choices for `n` examples, [n, k] on the host; None for a fixed transform."""
        return None

    def __call__(self, raw: Tensor, augmentation: Tensor | None = None) -> Tensor:
        """uint8 [B, C, H, W] (and choices [B, k]) → float32 [B, C, H, W]."""
        if self._mean_std is None:
            return raw.to(torch.float32).div_(255)
        if self._factor is None or self._shift is None or self._factor.device != raw.device:
            self._require_channels(raw.shape[1])
            mean, std = (torch.tensor(v, device=raw.device).view(-1, 1, 1) for v in self._mean_std)
            self._factor, self._shift = 1 / (255 * std), -mean / std
        return raw.to(torch.float32).mul_(self._factor).add_(self._shift)

    def _require_channels(self, channels: int) -> None:
        mean, std = self._mean_std or ((), ())
        if len(mean) not in (1, channels):
            raise UserError(
                f"dataset.transform: mean={list(mean)} and std={list(std)} have {len(mean)} "
                f"entries and the images {channels} channels; give one float a channel, or one "
                "for all"
            )


class CropFlip(Scale):
    """Random crop of the zero-padded image and random horizontal flip, then `Scale`.

    The usual CIFAR augmentation: `padding` pixels on each side, a window of the original size at a
    uniform offset, mirrored with probability one half. Evaluation passes no choices and so sees
    the image as it is.

    Args:
        padding: zero pixels added on each side before the crop.
        flip: whether to mirror at random.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        padding: int = 4,
        flip: bool = True,
    ) -> None:
        super().__init__(mean, std)
        if padding < 0:
            raise UserError(f"dataset.transform.padding={padding}: must be 0 or more")
        self.padding = padding
        self.flip = flip

    def draw(self, n: int, generator: np.random.Generator) -> Tensor | None:
        """Row offset, column offset and mirror flag of `n` examples, int64 [n, 3]."""
        choices = generator.integers(0, (2 * self.padding + 1, 2 * self.padding + 1, 2), (n, 3))
        if not self.flip:
            choices[:, 2] = 0
        return torch.from_numpy(choices)

    def __call__(self, raw: Tensor, augmentation: Tensor | None = None) -> Tensor:
        if augmentation is None:
            return super().__call__(raw)
        return super().__call__(crop_flip(raw, augmentation, self.padding))


def crop_flip(raw: Tensor, choices: Tensor, padding: int) -> Tensor:
    """One gather on the flat padded pixels.

    Args:
        raw: uint8 [B, C, H, W].
        choices: int64 [B, 3]: row offset, column offset in 0…2·padding, mirror flag.
        padding: zero pixels on each side.

    Returns:
        uint8 [B, C, H, W].
    """
    batch, channels, height, width = raw.shape
    padded = F.pad(raw, (padding, padding, padding, padding)).flatten(2)
    rows = torch.arange(height, device=raw.device) + choices[:, 0, None]
    columns = torch.arange(width, device=raw.device).expand(batch, width)
    columns = torch.where(choices[:, 2, None] > 0, width - 1 - columns, columns)
    columns = columns + choices[:, 1, None]
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    index = pixels.flatten(1)[:, None].expand(-1, channels, -1)
    return padded.gather(2, index).view(batch, channels, height, width)
