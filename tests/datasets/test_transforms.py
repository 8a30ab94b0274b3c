"""Transforms against the image-by-image loops that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perdure.datasets.arrays import Arrays
from perdure.datasets.transforms import CropFlip, Scale, crop_flip
from perdure.errors import UserError

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)


def images(n: int, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """Every byte value occurs."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8))


def test_scale_is_a_division_by_255_to_the_bit(tiny: Arrays) -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for raw in (every_byte, tiny.train.x):
        scaled = Scale()(raw)
        assert scaled.dtype == torch.float32
        assert torch.equal(scaled, raw.float() / 255)
    assert every_byte.flatten().tolist() == list(range(256)), "the stored bytes were changed"


@pytest.mark.parametrize(
    ("mean", "std"),
    [(MEAN, STD), ([0.5], [0.25]), ((0.0,) * 3, (1.0,) * 3)],
    ids=["cifar", "gray", "identity"],
)
def test_normalized_is_close_to_the_formula(mean: Sequence[float], std: Sequence[float]) -> None:
    raw = images(7, len(mean))
    m, s = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (mean, std))
    expected = ((raw.double() / 255 - m) / s).float()
    transform = Scale(mean, std)
    for _ in range(2):  # the second time from the constants it keeps
        torch.testing.assert_close(transform(raw), expected, rtol=1e-6, atol=1e-6)


def test_a_fixed_transform_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    assert Scale().draw(5, generator) is None
    assert generator.random() == np.random.default_rng(0).random()


def by_hand(image: np.ndarray, choice: Sequence[int], padding: int) -> np.ndarray:
    """Pad, cut the window, mirror: one image [C, H, W]."""
    _, height, width = image.shape
    top, left, mirror = choice
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    window = padded[:, top : top + height, left : left + width]
    return window[:, :, ::-1] if mirror else window


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 6),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
    padding=st.integers(0, 5),
    flip=st.booleans(),
)
def test_crop_and_flip_equal_the_loop_over_images(
    seed: int, n: int, shape: tuple[int, int, int], padding: int, flip: bool
) -> None:
    raw = images(n, *shape)
    transform = CropFlip(padding=padding, flip=flip)
    choices = transform.draw(n, np.random.default_rng(seed))
    assert choices is not None
    cut = crop_flip(raw, choices, padding)
    assert cut.dtype == torch.uint8
    assert cut.shape == raw.shape
    for image, choice, result in zip(raw, choices.tolist(), cut, strict=True):
        assert np.array_equal(result.numpy(), by_hand(image.numpy(), choice, padding))
    assert torch.equal(transform(raw, choices), Scale()(cut))


def test_normalisation_follows_the_crop() -> None:
    """Padding is black before it is normalized, as in the usual pipeline."""
    raw, transform = images(4), CropFlip(MEAN, STD)
    choices = torch.tensor([[0, 0, 0], [8, 8, 1], [4, 4, 0], [0, 8, 1]])
    result = transform(raw, choices)
    assert torch.equal(result, Scale(MEAN, STD)(crop_flip(raw, choices, 4)))
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(result[0, :, 0, 0], black)


def test_offsets_and_flips_are_uniform_and_independent(
    chi_square_limit: Callable[[int], float],
) -> None:
    transform = CropFlip(padding=2)
    choices = transform.draw(20_000, np.random.default_rng(1))
    assert choices is not None
    rows, columns, mirrored = choices.unbind(1)
    counts = torch.bincount((rows * 5 + columns) * 2 + mirrored, minlength=50).double()
    assert len(counts) == 50
    expected = len(choices) / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < chi_square_limit(49)


def test_without_flip_nothing_is_mirrored_and_the_offsets_stay() -> None:
    plain, mirrored = (
        CropFlip(flip=flip).draw(50, np.random.default_rng(3)) for flip in (False, True)
    )
    assert plain is not None
    assert mirrored is not None
    assert not plain[:, 2].any()
    assert mirrored[:, 2].any()
    assert torch.equal(plain[:, :2], mirrored[:, :2])


def test_evaluation_sees_the_image_as_it_is(tiny: Arrays) -> None:
    raw = tiny.test.x
    assert torch.equal(CropFlip()(raw), Scale()(raw))
    assert torch.equal(CropFlip()(raw, None), Scale()(raw))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Scale(mean=[0.5]), "mean=.* and std=None must be given together"),
        (lambda: Scale(std=[0.5]), "dataset.transform: mean=None"),
        (lambda: Scale([0.5, 0.5, 0.5], [0.5]), "one float a channel"),
        (lambda: Scale([0.5], [0.0]), "dataset.transform.std=.*above 0"),
        (lambda: CropFlip(padding=-1), "dataset.transform.padding=-1: must be 0 or more"),
    ],
    ids=["mean-alone", "std-alone", "lengths", "zero-std", "padding"],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], Scale], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make()
