"""CutMix pixel by pixel."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from perdure.models.cutmix import mix


@pytest.mark.parametrize("area", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("center", [(0.5, 0.5), (0.0, 0.99), (0.9, 0.1)])
def test_cutmix_against_a_mask(area: float, center: tuple[float, float]) -> None:
    """Pixel by pixel; the share is what is left of an image of ones with one of zeros."""
    x = torch.rand(4, 3, 10, 14)
    other = torch.tensor([2, 0, 3, 1])
    mixed, share = mix(x, other, area, *center)
    halves = [int(size * sqrt(area)) // 2 for size in (10, 14)]
    middles = [int(size * part) for size, part in zip((10, 14), center, strict=True)]
    for i in range(10):
        for j in range(14):
            inside = all(
                m - h <= k < m + h for k, m, h in zip((i, j), middles, halves, strict=True)
            )
            source = x[other] if inside else x
            assert torch.equal(mixed[:, :, i, j], source[:, :, i, j])
    ones = torch.ones(2, 1, 10, 14)
    ones[1] = 0
    assert mix(ones, torch.tensor([1, 0]), area, *center)[1] == share
    left = mix(ones, torch.tensor([1, 0]), area, *center)[0][0].mean()
    assert float(left) == pytest.approx(share)
