"""Domain-incremental tasks: permutations, and rotations as PIL makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import PermutedPixels, Rotated, rotation

ANGLES = [0, 1e-6, 3.2, 30, 44.999, 45, 60, 89.9999, 90, 114.653103717, 135, 147.26, 179.99, 180]


def by_pil(image: np.ndarray, degrees: float) -> np.ndarray:
    return np.array(Image.fromarray(image).rotate(degrees))


def mapped(image: np.ndarray, degrees: float) -> np.ndarray:
    """`image` [H, W] or [H, W, C] through `rotation`."""
    height, width = image.shape[:2]
    source = rotation(degrees, height, width).numpy()
    flat = image.reshape(height * width, -1)
    turned = np.where(source[:, None] < 0, 0, flat[source.clip(0)])
    return turned.reshape(image.shape)


@pytest.mark.parametrize("degrees", ANGLES, ids=str)
def test_rotation_is_pil_s_on_real_digits(tiny: Arrays, degrees: float) -> None:
    for image in tiny.train.x[:40, 0].numpy():
        assert np.array_equal(mapped(image, degrees), by_pil(image, degrees))


@settings(deadline=None, max_examples=200)
@given(
    degrees=st.floats(0, 360, exclude_max=True),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.just((28, 28)),
)
def test_rotation_takes_every_pixel_from_where_pil_does(
    degrees: float, shape: tuple[int, int]
) -> None:
    """Three channels spell the number of each pixel, from 1, so that black is none of them."""
    height, width = shape
    numbers = np.arange(1, height * width + 1)
    image = np.stack([numbers % 256, numbers // 256, np.full_like(numbers, 7)], 1)
    image = image.astype(np.uint8).reshape(height, width, 3)
    assert np.array_equal(mapped(image, degrees), by_pil(image, degrees))


def test_rotated_tasks_turn_training_and_test_images_by_one_angle(tiny: Arrays) -> None:
    scenario = Rotated(tiny, 4, seed=1)
    angles = [scenario.angle(task) for task in range(4)]
    assert len(set(angles)) == 4
    assert scenario.label(2) == f"rotation {angles[2]:.1f}°"
    for task, degrees in enumerate(angles):
        for split, source in (
            (scenario.train(task), tiny.train),
            (scenario.evaluation(task), tiny.test),
        ):
            assert torch.equal(split.y, source.y)
            for turned, image in list(zip(split.x, source.x, strict=True))[::37]:
                assert np.array_equal(turned[0].numpy(), by_pil(image[0].numpy(), degrees))


def test_angles_are_uniform_over_half_a_turn(tiny: Arrays) -> None:
    """Kolmogorov's distance of 2,000 angles stays under 1.95/√n (1 in 1000)."""
    scenario, n = Rotated(tiny, 2000, seed=3), 2000
    angles = np.sort([scenario.angle(task) for task in range(n)]) / 180
    assert angles[0] >= 0
    assert angles[-1] < 1
    assert np.abs(angles - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5


def test_permuted_tasks_move_all_images_alike(tiny: Arrays) -> None:
    scenario = PermutedPixels(tiny, 3, seed=2)
    maps = [scenario.pixels(task) for task in range(3)]
    identity = torch.arange(784)
    assert all(torch.equal(pixels.sort().values, identity) for pixels in maps)
    assert not any(torch.equal(pixels, identity) for pixels in maps), "the first one too"
    assert len({tuple(pixels.tolist()) for pixels in maps}) == 3
    for task, pixels in enumerate(maps):
        for split, source in (
            (scenario.train(task), tiny.train),
            (scenario.evaluation(task), tiny.test),
        ):
            assert torch.equal(split.x.flatten(1), source.x.flatten(1)[:, pixels])
            assert torch.equal(split.y, source.y)
    assert scenario.classes(1) == range(10)
    assert scenario.label(1) == "permutation 1"


def test_colours_move_together() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8))
    split = Split(x, torch.zeros(5, dtype=torch.int64))
    scenario = PermutedPixels(Arrays(split, split, ("one",)), 2)
    pixels = scenario.pixels(1)
    assert torch.equal(scenario.train(1).x.flatten(2), x.flatten(2)[:, :, pixels])
    turned = Rotated(Arrays(split, split, ("one",)), 2).train(1).x
    assert turned.shape == x.shape


def test_the_source_images_are_not_touched(tiny: Arrays) -> None:
    before = tiny.train.x.clone()
    for kind in (PermutedPixels, Rotated):
        kind(tiny, 2).train(1)
    assert torch.equal(tiny.train.x, before)
