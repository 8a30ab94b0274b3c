"""Strong augmentation: what it may change, that it follows from the seed, and how often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from perdure.datasets.arrays import Arrays
from perdure.datasets.views import strong_view


def ramp(n: int, channels: int = 1, size: int = 24) -> Tensor:
    """Images whose brightness says the column, and below the middle the row."""
    column = torch.arange(size).expand(size, size)
    half = torch.where(torch.arange(size)[:, None] < size // 2, column, column.T)
    return (10 * half).to(torch.uint8).expand(n, channels, size, size).contiguous()


def test_the_whole_area_is_cropped_at_the_sides_alone() -> None:
    """With crop=1 the sides are at most 4:3, so that at least a half of the area is there."""
    torch.manual_seed(0)
    raw = ramp(500)
    view = strong_view(raw, 1.0, False)
    assert view.dtype == torch.uint8
    assert view.shape == raw.shape
    top = view[:, 0, 0].int()
    width = (top[:, -1] - top[:, 0]) / (raw[0, 0, 0, -1].int() - raw[0, 0, 0, 0].int())
    assert width.max() <= 1
    assert width.min() >= (3 / 4) ** 0.5 - 0.05


@pytest.mark.parametrize("crop", [0.2, 0.6])
def test_windows_lie_in_the_image_and_have_the_area_that_was_asked_for(crop: float) -> None:
    torch.manual_seed(1)
    size, n = 40, 2000
    rows = torch.arange(size).to(torch.uint8).expand(n, size, size)
    raw = torch.stack([6 * rows, 6 * rows.transpose(1, 2)], 1)
    view = strong_view(raw, crop, False).float() / 6
    width = (view[:, 0, 0, -2] - view[:, 0, 0, 1]) / (size - 3)
    height = (view[:, 1, -2, 0] - view[:, 1, 1, 0]) / (size - 3)
    area = width * height
    assert view.max() <= size - 1
    assert area.min() > 0.75 * crop - 0.05
    expected = (1 + crop) / 2
    assert area.mean() == pytest.approx(expected, abs=0.05)
    ratio = width / height
    assert ratio.min() > 3 / 4 - 0.05
    assert ratio.max() < 4 / 3 + 0.08
    middle = view[:, 0].mean((1, 2)) / (size - 1)
    assert middle.mean() == pytest.approx(0.5, abs=0.02)
    assert middle.std() > 0.02


def test_half_of_the_images_are_mirrored_where_they_may_be() -> None:
    torch.manual_seed(2)
    for flip, expected in ((False, 0.0), (True, 0.5)):
        top = strong_view(ramp(2000), 0.5, flip)[:, 0, 0].int()
        assert (top[:, 0] > top[:, -1]).float().mean() == pytest.approx(expected, abs=0.06)


def test_each_image_has_choices_of_its_own_that_follow_from_the_seed(tiny: Arrays) -> None:
    views = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        views.append(strong_view(tiny.train.x[:50], 0.6, True))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    torch.manual_seed(3)
    same = strong_view(tiny.train.x[:1].expand(50, -1, -1, -1), 0.6, True)
    assert len(same.flatten(1).unique(dim=0)) == 50


def test_color_is_jittered_and_gray_images_stay_gray() -> None:
    """Of one color everywhere, so that a crop changes nothing."""
    torch.manual_seed(5)
    n = 4000

    def of(*color: int) -> Callable[[], Tensor]:
        raw = torch.tensor(color, dtype=torch.uint8).view(1, -1, 1, 1).expand(n, -1, 8, 8)
        return lambda: strong_view(raw, 0.5, True)[:, :, 4, 4].int()

    assert torch.equal(of(200)(), torch.full((n, 1), 200, dtype=torch.int32)), "one channel"
    gray = of(120, 120, 120)()
    assert (gray - gray[:, :1]).abs().max() <= 1, "hue and saturation leave gray alone"
    assert gray[:, 0].min() >= 120 * 0.6 - 1
    assert gray[:, 0].max() <= 120 * 1.4 + 1
    color = of(150, 90, 60)()
    untouched = (color == torch.tensor([150, 90, 60])).all(1).float().mean()
    grayed = ((color - color[:, :1]).abs().max(1).values <= 1).float().mean()
    assert untouched == pytest.approx(0.2 * 0.8, abs=0.03)
    assert grayed == pytest.approx(0.2, abs=0.03)
