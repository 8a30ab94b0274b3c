"""CutMix: a rectangle of each image comes from another one (Yun et al. 2019)."""

from __future__ import annotations

from math import sqrt

from torch import Tensor


def mix(x: Tensor, other: Tensor, area: float, row: float, column: float) -> tuple[Tensor, float]:
    """A rectangle of each image from another one, cut off at the border.

    Args:
        x: float [B, C, H, W].
        other: int64 [B], which image gives the rectangle.
        area: of the rectangle before it is cut off, as a part of the image.
        row, column: its center, as parts of height and width.

    Returns:
        The images, and the part of each that is its own.
    """
    height, width = x.shape[2:]
    bounds = []
    for size, center in ((height, row), (width, column)):
        half, middle = int(size * sqrt(area)) // 2, int(size * center)
        bounds += [max(0, middle - half), min(size, middle + half)]
    top, bottom, left, right = bounds
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
    return x, 1 - (bottom - top) * (right - left) / (height * width)
