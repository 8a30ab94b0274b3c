"""Rotations of images as PIL makes them: nearest pixel, counter-clockwise, black outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 1024
"""Images rotated at once: their indices, int64 a pixel, are eight times as large as they are."""


def rotation(degrees: float, height: int, width: int) -> Tensor:
    """Source pixel of each pixel of an image turned counter-clockwise; -1 where it falls outside.

    Returns:
        int64 [height · width], indices into the flat source image.
    """
    return rotations([degrees], height, width)[0]


def rotations(degrees: Sequence[float] | NDArray[Any], height: int, width: int) -> Tensor:
    """`rotation` of several images at once, each by its own angle, int64 [N, height · width].

    In the 16.16 fixed point that PIL computes in, so that pixels near an edge agree too.
    """
    angles = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    cos, sin = np.cos(angles).round(15), np.sin(angles).round(15)
    columns, rows = np.arange(width), np.arange(height)[:, None]

    def source(along: NDArray[Any], across: NDArray[Any], x: float, y: float, centre: float) -> Any:
        start = _fixed(along * -x + across * -y + centre + along * 0.5 + across * 0.5)
        steps = _fixed(along) * columns + _fixed(across) * rows
        return (steps + start) >> 16

    x, y = width / 2, height / 2
    column, row = source(cos, -sin, x, y, x), source(sin, cos, x, y, y)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.from_numpy(np.where(inside, row * width + column, -1).reshape(len(angles), -1))


def rotated(images: Tensor, degrees: NDArray[Any]) -> Tensor:
    """`images`, uint8 [N, C, H, W], each turned by its own angle, float64 [N]; on their device."""
    flat, found = images.flatten(2), torch.empty_like(images.flatten(2))
    for first in range(0, len(images), _BLOCK):
        part = slice(first, first + _BLOCK)
        source = rotations(degrees[part], *images.shape[2:]).to(images.device)[:, None]
        index = source.clamp(min=0).expand_as(flat[part])
        found[part] = flat[part].gather(2, index).masked_fill_(source < 0, 0)
    return found.view_as(images)


def _fixed(values: NDArray[Any]) -> Any:
    """16.16 fixed point, int64 [N, 1, 1]."""
    return np.floor(values * 65536 + 0.5).astype(np.int64)[:, None, None]
