"""MNIST-360: each example once, its pairs and angles those of the paper, the test set whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.general import RotatingPairs
from perdure.datasets.rotation import rotated
from perdure.datasets.streams import TaskStream
from perdure.errors import UserError
from perdure.randomness import Streams


def turned(image: torch.Tensor, degrees: float) -> np.ndarray[Any, Any]:
    return np.array(Image.fromarray(image[0].numpy()).rotate(degrees))


@pytest.fixture(scope="module")
def stream(tiny: Arrays) -> RotatingPairs:
    return RotatingPairs(tiny, seed=3)


def test_pairs_follow_one_another_in_three_rounds(stream: RotatingPairs) -> None:
    """Of 60 examples a digit, each pair has 10 and 10."""
    y = stream.train(0).y.reshape(27, 20)
    for number, pair in enumerate(y):
        digits = {number % 9, (number + 1) % 9}
        assert torch.bincount(pair, minlength=9).tolist() == [10 * (d in digits) for d in range(9)]
        for part in pair.split(4):  # the digits are mixed all along
            assert sorted(torch.bincount(part)[part.unique()].tolist()) == [2, 2]


def test_each_example_comes_once_turned_a_step_further(stream: RotatingPairs, tiny: Arrays) -> None:
    split, left = stream.train(0), set(range(600))
    shown = dict.fromkeys(range(9), 0)
    for x, y in zip(split.x, split.y.tolist(), strict=True):
        degrees = (y - 1) * 60 + shown[y] * 360 / 60
        shown[y] += 1
        matches = [
            row
            for row in (tiny.train.y == y).nonzero().squeeze(1).tolist()
            if row in left and np.array_equal(x[0].numpy(), turned(tiny.train.x[row], degrees))
        ]
        assert matches, "no example that is left looks like it at this angle"
        left.remove(matches[0])
    assert set(tiny.train.y[sorted(left)].tolist()) == {9}


def test_the_test_set_is_whole_and_fixed(stream: RotatingPairs, tiny: Arrays) -> None:
    split, ids = stream.evaluation(0), stream.evaluation_ids(0)
    assert ids is not None
    assert len(split) == stream.n_evaluation(0) == 180
    assert torch.equal(tiny.test.y[ids], split.y)
    counted = dict.fromkeys(range(9), 0)
    for x, y, row in zip(split.x, split.y.tolist(), ids.tolist(), strict=True):
        expected = turned(tiny.test.x[row], counted[y] * 360 / 20)
        assert np.array_equal(x[0].numpy(), expected)
        counted[y] += 1
    again = RotatingPairs(tiny, seed=8)
    assert torch.equal(again.evaluation(0).x, split.x)
    assert not torch.equal(again.train(0).x, stream.train(0).x)


def test_real_mnist_has_every_test_image(mnist: Arrays) -> None:
    """8991 of them, where Mammoth's loader serves 144."""
    split = RotatingPairs(mnist).evaluation(0)
    assert len(split) == 8991
    assert len({x.numpy().tobytes() for x in split.x}) > 8900


def test_labels_are_seen_when_they_have_occurred(stream: RotatingPairs) -> None:
    y = stream.train(0).y
    for drawn in (*range(30), 100, 150, 170, 200, len(y)):
        assert stream.seen(0, drawn) == sorted(set(y[:drawn].tolist())), drawn
    assert stream.seen(0) == range(9)
    assert stream.seen(0, 5) is stream.seen(0, 6)
    assert stream.seen(-1) == ()


def test_the_stream_is_not_shuffled(stream: RotatingPairs) -> None:
    split = stream.train(0)
    batches = TaskStream(split, 16, Streams(0), 0)
    found = list(batches.batches(0))
    assert torch.equal(torch.cat([x for x, _, _ in found]), split.x)
    assert torch.equal(torch.cat([y for _, y, _ in found]), split.y)
    assert np.concatenate([labels for *_, labels in found]).tolist() == split.y.tolist()
    assert split.ordered
    assert not stream.joint().ordered
    late = list(batches.batches(0, 7))
    assert torch.equal(late[0][0], found[7][0])


def test_held_out_examples_are_measured(tiny: Arrays) -> None:
    made = RotatingPairs(tiny, validation=0.1)
    ids = made.evaluation_ids(0)
    assert ids is not None
    assert torch.equal(tiny.train.y[ids], made.evaluation(0).y)
    assert made.n_train(0) + made.n_evaluation(0) == 540


@pytest.mark.parametrize("n", [0, 1, 1024, 1025])
def test_blocks_do_not_show(n: int) -> None:
    images = torch.randint(0, 256, (n, 2, 5, 4), dtype=torch.uint8)
    degrees = np.linspace(0, 720, n)
    found = rotated(images, degrees)
    assert found.shape == images.shape
    for row in range(0, n, 211):
        for channel in range(2):
            image = images[row, channel][None]
            assert np.array_equal(found[row, channel].numpy(), turned(image, degrees[row]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_tasks": 2}, r"dataset\.n_tasks=2: a stream without boundaries is one task"),
        ({"rounds": 0}, r"dataset\.scenario\.rounds=0"),
        ({"left_out": 8}, r"dataset\.scenario\.left_out=8"),
        ({"left_out": -1}, r"dataset\.scenario\.left_out=-1"),
    ],
    ids=["tasks", "rounds", "too-many", "negative"],
)
def test_mistakes_are_named_by_their_key(
    tiny: Arrays, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        RotatingPairs(tiny, **options)


def test_few_examples_make_a_stream_too(tiny: Arrays) -> None:
    """Fewer of a class than there are groups: some pairs lack it."""
    few = Split(tiny.train.x[:25], tiny.train.y[:25])
    made = RotatingPairs(Arrays(few, tiny.test, tiny.classes))
    assert sorted(made.train(0).y.tolist()) == sorted(few.y[few.y < 9].tolist())
