"""Label noise and long tails: the shares asked for, of training examples alone, from the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.blurry import Blurry
from perdure.datasets.corruption import Corruption
from perdure.datasets.general import RotatingPairs
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Rotated, Scenario
from perdure.errors import UserError

EVERY = [ClassIncremental, PermutedPixels, Rotated, Blurry]
SHUFFLED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


def labels_by_example(scenario: Scenario) -> dict[bytes, str]:
    """The class by name of each training example, which its bytes identify."""
    return {
        x.numpy().tobytes(): scenario.class_names[y]
        for task in range(scenario.n_tasks)
        for x, y in zip(*(lambda s: (s.x, s.y.tolist()))(scenario.train(task)), strict=True)
    }


def of_source(tiny: Arrays) -> dict[bytes, str]:
    train = tiny.train
    return {
        x.numpy().tobytes(): tiny.classes[y] for x, y in zip(train.x, train.y.tolist(), strict=True)
    }


@settings(deadline=None, max_examples=15)
@given(rate=st.floats(0.01, 0.9), seed=st.integers(0, 99), n_tasks=st.sampled_from([1, 2, 5]))
def test_symmetric_noise_changes_its_share_of_each_class_within_the_task(
    tiny: Arrays, rate: float, seed: int, n_tasks: int
) -> None:
    corruption = Corruption("symmetric", rate)
    noisy = ClassIncremental(tiny, n_tasks, seed, corruption=corruption)
    clean = ClassIncremental(tiny, n_tasks, seed)
    for task in range(n_tasks):
        now, before = noisy.train(task), clean.train(task)
        assert torch.equal(now.x, before.x), "an example left its task"
        for label in noisy.classes(task):
            rows = before.y == label
            assert int((now.y[rows] != label).sum()) == round(rate * int(rows.sum()))
        assert set(now.y.tolist()) <= set(noisy.classes(task))
        held = noisy.evaluation(task)
        assert torch.equal(held.y, clean.evaluation(task).y)


def test_wrong_labels_of_symmetric_noise_are_uniform(mnist: Arrays, chi_square_limit: Any) -> None:
    scenario = PermutedPixels(mnist, 1, corruption=Corruption("symmetric", 0.5))
    wrong = scenario.train(0).y[mnist.train.y == 3]
    counts = torch.bincount(wrong[wrong != 3], minlength=10).double()
    others = counts[[c for c in range(10) if c != 3]]
    expected = float(others.mean())
    assert float(((others - expected) ** 2 / expected).sum()) < chi_square_limit(8)


@pytest.mark.parametrize("order", [None, SHUFFLED], ids=["in-order", "shuffled"])
def test_asymmetric_noise_takes_the_published_pairs(tiny: Arrays, order: Any) -> None:
    corruption = Corruption("asymmetric", 0.4)
    scenario = ClassIncremental(tiny, 1, class_order=order, corruption=corruption)
    found, clean = labels_by_example(scenario), of_source(tiny)
    changed = {(clean[x], found[x]) for x in clean if clean[x] != found[x]}
    assert changed == {("2", "7"), ("3", "8"), ("5", "6"), ("6", "5"), ("7", "1")}
    for true, wrong in changed:
        assert sum((clean[x], found[x]) == (true, wrong) for x in clean) == 24  # 0.4 · 60


def test_asymmetric_noise_is_of_the_task_s_next_class_where_the_pair_is_of_another(
    tiny: Arrays,
) -> None:
    scenario = ClassIncremental(tiny, 5, corruption=Corruption("asymmetric", 0.4))
    found, clean = labels_by_example(scenario), of_source(tiny)
    changed = {(clean[x], found[x]) for x in clean if clean[x] != found[x]}
    assert changed == {("2", "3"), ("3", "2"), ("5", "4"), ("6", "7"), ("7", "6")}


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
             "truck"),
            {(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)},
        ),
        (tuple("abcdefghij"), {(c, (c + 1) % 10) for c in range(10)}),
    ],
    ids=["cifar10", "unknown"],
)  # fmt: skip
def test_pairs_go_by_the_names_of_the_classes(
    tiny: Arrays, names: tuple[str, ...], pairs: set[tuple[int, int]]
) -> None:
    arrays = Arrays(tiny.train, tiny.test, names)
    scenario = ClassIncremental(arrays, 1, corruption=Corruption("asymmetric", 0.3))
    y = scenario.train(0).y
    changed = y != tiny.train.y
    assert set(zip(tiny.train.y[changed].tolist(), y[changed].tolist(), strict=True)) == pairs


def test_the_examples_with_a_wrong_label_are_the_same_in_any_class_order(tiny: Arrays) -> None:
    clean = of_source(tiny)

    def changed(order: Any) -> set[bytes]:
        made = ClassIncremental(tiny, 1, 4, 0.0, order, corruption=Corruption("symmetric", 0.3))
        found = labels_by_example(made)
        return {x for x in clean if found[x] != clean[x]}

    assert changed(None) == changed(SHUFFLED)


@pytest.mark.parametrize("kind", EVERY)
def test_a_long_tail_leaves_the_published_numbers(tiny: Arrays, kind: type[Scenario]) -> None:
    scenario = kind(tiny, 2, corruption=Corruption(imbalance=0.05))
    y = torch.cat([scenario.train(task).y for task in range(2)])
    n = torch.bincount(y, minlength=10).tolist()
    times = 2 if kind in (PermutedPixels, Rotated) else 1
    assert n == [times * max(1, int(60 * 0.05 ** (c / 9))) for c in range(10)]
    held = torch.cat([scenario.evaluation(task).y for task in range(2)])
    assert torch.bincount(held).tolist() == [20 * times] * 10


def test_a_long_tail_goes_by_the_source_s_classes_whatever_their_order(tiny: Arrays) -> None:
    scenario = ClassIncremental(
        tiny, 5, class_order=SHUFFLED, corruption=Corruption(imbalance=0.05)
    )
    for task in range(5):
        for label, n in zip(*scenario.train(task).y.unique(return_counts=True), strict=True):
            assert int(n) == int(60 * 0.05 ** (SHUFFLED[int(label)] / 9))


@pytest.mark.parametrize("kind", [*EVERY, RotatingPairs])
def test_both_depend_on_the_seed_alone_and_work_with_every_scenario(
    tiny: Arrays, kind: type[Scenario]
) -> None:
    def made(seed: int) -> list[bytes]:
        corruption = Corruption("symmetric", 0.2, 0.5)
        scenario = kind(tiny, 1, seed, validation=0.1, corruption=corruption)
        assert set(scenario.evaluation_ids(0).tolist()) <= set(range(600))  # type: ignore[union-attr]
        splits = (scenario.train(0), scenario.evaluation(0))
        return [t.numpy().tobytes() for split in splits for t in (split.x, split.y)]

    first = made(1)
    np.random.seed(0)
    torch.manual_seed(0)
    assert made(1) == first
    assert made(2) != first


def test_a_wrong_label_is_never_measured(tiny: Arrays) -> None:
    """With held-out examples too, whose labels are the source's."""
    scenario = ClassIncremental(tiny, 1, validation=0.2, corruption=Corruption("symmetric", 0.5))
    ids = scenario.evaluation_ids(0)
    assert ids is not None
    assert torch.equal(scenario.evaluation(0).y, tiny.train.y[ids])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("pairwise", 0.1), r"dataset\.noise\.kind=pairwise: must be null or one of symmetric"),
        (("symmetric", 0.0), r"dataset\.noise\.kind=symmetric: give dataset\.noise\.rate"),
        ((None, 0.1), r"dataset\.noise\.rate=0\.1: give dataset\.noise\.kind"),
        (("symmetric", 1.0), r"dataset\.noise\.rate=1\.0: must be a fraction"),
        ((None, 0.0, 0.0), r"dataset\.imbalance=0\.0: must be a float above 0"),
    ],
    ids=["kind", "no-rate", "no-kind", "rate", "imbalance"],
)
def test_mistakes_are_named_by_their_key(options: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Corruption(*options)


def test_a_class_alone_in_its_task_has_no_wrong_label(tiny: Arrays) -> None:
    with pytest.raises(UserError, match="class 0 is alone in its task"):
        ClassIncremental(tiny, 10, corruption=Corruption("symmetric", 0.1))


def test_a_class_with_one_example_keeps_it(tiny: Arrays) -> None:
    one = Split(tiny.train.x[:12], torch.tensor([0] * 11 + [1]))
    scenario = ClassIncremental(
        Arrays(one, one, ("a", "b")), 1, corruption=Corruption(imbalance=0.001)
    )
    assert torch.bincount(scenario.train(0).y).tolist() == [6, 1]
