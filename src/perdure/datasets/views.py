"""Strong augmentation for contrastive learning (random resized crop, flip, color jitter, gray)."""

from __future__ import annotations

from math import log, tau

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAY = (0.299, 0.587, 0.114)
_BRIGHTNESS = _CONTRAST = _SATURATION = 0.4
_HUE = 0.1
_JITTERED = 0.8
_GRAYED = 0.2


def strong_view(raw: Tensor, crop: float, flip: bool) -> Tensor:
    """One view of each image, drawn from torch's generator of the device.

    As in SimCLR (Chen et al. 2020) and the methods built on it: a window of `crop` to 1 of the
    area, with sides of 3:4 to 4:3, is enlarged to the whole image (bilinear) and mirrored with
    probability one half; color images are jittered with probability 0.8 (brightness, contrast and
    saturation by up to 0.4, hue by up to 0.1) and gray with 0.2. A window is cut to the image
    where others draw it again, and hue turns in YIQ, where others turn it in HSV.

    Args:
        raw: uint8 [B, C, H, W].
        crop: the smallest part of the area, above 0.
        flip: whether images may be mirrored.

    Returns:
        uint8 [B, C, H, W].
    """
    x = _crop_flip(raw.to(torch.float32) / 255, crop, flip)
    if x.shape[1] == 3:
        x = _jitter(x)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def _crop_flip(x: Tensor, crop: float, flip: bool) -> Tensor:
    area, ratio, left, top, side = torch.rand(5, len(x), device=x.device)
    area = crop + (1 - crop) * area
    ratio = torch.exp(log(4 / 3) * (2 * ratio - 1))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    mirrored = torch.where(side < 0.5, -1.0, 1.0) if flip else torch.ones_like(side)
    # From the corners of the view, -1 … 1, to those of its window.
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = width * mirrored, (1 - width) * (2 * left - 1)
    theta[:, 1, 1], theta[:, 1, 2] = height, (1 - height) * (2 * top - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _jitter(x: Tensor) -> Tensor:
    """Of color images [B, 3, H, W] in [0, 1]; each choice is an image's own."""
    numbers = torch.rand(6, len(x), 1, 1, 1, device=x.device)
    brightness, contrast, saturation, hue = 2 * numbers[:4] - 1
    jittered = (x * (1 + _BRIGHTNESS * brightness)).clamp(0, 1)
    mean = _gray(jittered).mean((1, 2, 3), keepdim=True)
    jittered = torch.lerp(mean, jittered, 1 + _CONTRAST * contrast).clamp(0, 1)
    jittered = torch.lerp(_gray(jittered), jittered, 1 + _SATURATION * saturation).clamp(0, 1)
    jittered = _turn_hue(jittered, _HUE * hue).clamp(0, 1)
    x = torch.where(numbers[4] < _JITTERED, jittered, x)
    return torch.where(numbers[5] < _GRAYED, _gray(x), x)


def _gray(x: Tensor) -> Tensor:
    """The brightness of each pixel, in all three channels."""
    weights = x.new_tensor(_GRAY).view(3, 1, 1)
    return (x * weights).sum(1, keepdim=True).expand_as(x)


def _turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the two color components of YIQ by `turns`, [B, 1, 1, 1], of a whole circle."""
    to_yiq = x.new_tensor([_GRAY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    y, i, q = torch.einsum("kc,bchw->kbhw", to_yiq, x)
    cos, sin = (tau * turns).cos().squeeze(1), (tau * turns).sin().squeeze(1)
    turned = torch.stack([y, cos * i - sin * q, sin * i + cos * q], 1)
    return torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_yiq), turned)
