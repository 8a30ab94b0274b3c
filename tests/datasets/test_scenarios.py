"""How arrays become tasks: class-incremental ones, validation splits, and what a seed decides."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.datasets import scenarios
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Rotated, Scenario
from perdure.errors import UserError

SHUFFLED = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


def same(first: Split, other: Split) -> bool:
    return torch.equal(first.x, other.x) and torch.equal(first.y, other.y)


@settings(deadline=None, max_examples=25)
@given(
    n_tasks=st.integers(1, 10),
    order=st.none() | st.just("random") | st.permutations(range(10)),
    seed=st.integers(0, 2**40),
)
def test_every_example_is_in_exactly_one_task_with_its_class_s_position(
    tiny: Arrays, n_tasks: int, order: Any, seed: int
) -> None:
    scenario = ClassIncremental(tiny, n_tasks, seed, class_order=order)
    if isinstance(order, list):
        assert scenario.class_order == order
    assert sorted(scenario.class_order) == list(range(10))
    position = np.argsort(scenario.class_order)
    for part, source in ((scenario.train, tiny.train), (scenario.evaluation, tiny.test)):
        labels, total = position[source.y.numpy()], 0
        for task in range(n_tasks):
            split, classes = part(task), scenario.classes(task)
            rows = np.flatnonzero(np.isin(labels, classes))
            assert same(split, Split(source.x[rows], torch.from_numpy(labels[rows])))
            assert set(split.y.tolist()) == set(classes)
            total += len(split)
        assert total == len(source)


@pytest.mark.parametrize(
    ("n_tasks", "sizes"),
    [(5, [2] * 5), (3, [4, 3, 3]), (4, [3, 3, 2, 2]), (10, [1] * 10), (1, [10])],
    ids=lambda v: str(v) if isinstance(v, int) else "",
)
def test_the_first_tasks_get_the_classes_left_over(
    tiny: Arrays, n_tasks: int, sizes: list[int]
) -> None:
    scenario = ClassIncremental(tiny, n_tasks)
    ranges = [scenario.classes(task) for task in range(n_tasks)]
    assert [len(r) for r in ranges] == sizes
    assert [c for r in ranges for c in r] == list(range(10))


def test_names_follow_the_class_order(tiny: Arrays) -> None:
    scenario = ClassIncremental(tiny, 5, class_order=SHUFFLED)
    assert scenario.class_names == tuple("3140592687")
    assert scenario.label(1) == "classes 4, 0"
    task = scenario.train(1)
    assert task.y.unique().tolist() == [2, 3]
    fours = tiny.train.x[tiny.train.y == 4]
    assert torch.equal(task.x[task.y == 2], fours)


def test_a_class_order_says_the_same_to_domain_incremental_tasks(tiny: Arrays) -> None:
    plain, ordered = (PermutedPixels(tiny, 2, class_order=order) for order in (None, SHUFFLED))
    a, b = plain.train(1), ordered.train(1)
    assert torch.equal(a.x, b.x)
    assert torch.equal(torch.tensor(SHUFFLED)[b.y], a.y)


@pytest.mark.parametrize("kind", [ClassIncremental, PermutedPixels, Rotated])
def test_joint_is_all_tasks_after_another(tiny: Arrays, kind: type[Scenario]) -> None:
    scenario = kind(tiny, 3)
    parts = [scenario.train(task) for task in range(3)]
    whole = Split(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))
    assert same(scenario.joint(), whole)
    assert len(whole) == len(tiny.train) * (1 if kind is ClassIncremental else 3)
    assert scenario.shape == (1, 28, 28)


class Live(TorchDispatchMode):
    """The most bytes of tensors of some size that are alive at once."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.nbytes >= self.least:
            storage = made.untyped_storage().data_ptr()
            if storage not in self.live and storage not in {
                a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)
            }:
                self.live[storage] = made.nbytes
                weakref.finalize(made, self.live.pop, storage, None)
                self.most = max(self.most, sum(self.live.values()))
        return made


@pytest.mark.parametrize("kind", [ClassIncremental, PermutedPixels])
def test_joint_data_are_held_once(tiny: Arrays, kind: type[Scenario]) -> None:
    scenario = kind(tiny, 5)
    with Live(least=10_000) as live:
        whole = scenario.joint()
    task = max(scenario.train(task).x.nbytes for task in range(5))
    # Indices of pixels, int64, are as long as an example.
    assert whole.x.nbytes < live.most <= whole.x.nbytes + 2.1 * task


def test_test_sets_are_kept_up_to_a_bound(tiny: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    size = tiny.test.x.nbytes
    monkeypatch.setattr(scenarios, "CACHE_BYTES", 3 * size)
    scenario, fresh = PermutedPixels(tiny, 8), PermutedPixels(tiny, 8)
    for _ in range(2):  # in turn, as an evaluation does
        for task in range(8):
            assert same(scenario.evaluation(task), fresh._take(fresh._held_out, task))
    kept = [scenario.evaluation(t).x is scenario.evaluation(t).x for t in range(8)]
    assert kept == [True] * 3 + [False] * 5
    assert sum(split.x.nbytes for split in scenario._cache.values()) == 3 * size


# --- what a seed decides ----------------------------------------------------------------------


def fingerprint(scenario: Scenario) -> list[list[int]]:
    """All that a seed decides, as plain numbers."""
    parts: list[list[int]] = [list(scenario.class_order)]
    for task in (2, 0, 1):
        for split in (scenario.train(task), scenario.evaluation(task)):
            parts.append([hash(split.x.numpy().tobytes()), *split.y.tolist()])
    return parts


@pytest.mark.parametrize("kind", [ClassIncremental, PermutedPixels, Rotated])
def test_a_benchmark_depends_on_its_seed_alone(tiny: Arrays, kind: type[Scenario]) -> None:
    def make(seed: int, n_tasks: int = 3) -> Scenario:
        return kind(tiny, n_tasks, seed, validation=0.2, class_order="random")

    expected = fingerprint(make(5))
    np.random.seed(3)
    torch.manual_seed(3)
    disturbed = make(5)
    disturbed.streams.numpy("rotation").random(100)
    disturbed.streams.numpy("order", task=1).permutation(600)
    disturbed.streams.seed_torch("initialisation")
    disturbed.train(1)
    assert fingerprint(disturbed) == expected
    other = fingerprint(make(6))
    assert all(a != b for a, b in zip(expected, other, strict=True))


@pytest.mark.parametrize("kind", [PermutedPixels, Rotated])
def test_a_task_s_pixels_do_not_depend_on_the_number_of_tasks(
    tiny: Arrays, kind: Callable[..., Any]
) -> None:
    few, many = kind(tiny, 3, 1), kind(tiny, 20, 1)
    assert all(torch.equal(few.pixels(task), many.pixels(task)) for task in range(3))


# --- validation -------------------------------------------------------------------------------


def numbered(counts: list[int]) -> Arrays:
    """`counts[c]` examples of each class, whose pixels spell their number; shuffled."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    numbers = np.arange(len(labels), dtype=np.uint32)
    pixels = torch.from_numpy(numbers.view(np.uint8).reshape(-1, 1, 2, 2).copy())
    split = Split(pixels, torch.from_numpy(labels))
    return Arrays(split, split, tuple(map(str, range(len(counts)))))


def numbers_of(split: Split) -> list[int]:
    return split.x.numpy().reshape(-1, 4).view(np.uint32).ravel().tolist()


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=6),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 99),
)
def test_validation_is_its_fraction_of_each_class(
    counts: list[int], fraction: float, seed: int
) -> None:
    arrays = numbered(counts)
    scenario = ClassIncremental(arrays, len(counts), seed, validation=fraction)
    assert scenario.split == "validation"
    kept, held = set[int](), set[int]()
    for c, n in enumerate(counts):
        rest, out = scenario.train(c), scenario.evaluation(c)
        assert len(out) == min(max(1, round(fraction * n)), n - 1)
        assert len(rest) + len(out) == n
        assert set(rest.y.tolist()) == set(out.y.tolist()) == {c}
        assert numbers_of(rest) == sorted(numbers_of(rest)), "not in the source's order"
        kept |= set(numbers_of(rest))
        held |= set(numbers_of(out))
    assert not kept & held
    assert kept | held == set(range(sum(counts)))


def test_the_held_out_examples_are_the_same_in_any_class_order(tiny: Arrays) -> None:
    plain, shuffled = (
        ClassIncremental(tiny, 10, 0, validation=0.1, class_order=order)
        for order in (None, SHUFFLED)
    )
    assert all(
        torch.equal(plain.evaluation(c).x, shuffled.evaluation(task).x)
        for task, c in enumerate(SHUFFLED)
    )


def test_every_example_is_as_likely_to_be_held_out(
    chi_square_limit: Callable[[int], float],
) -> None:
    """2 of 12 for each of 600 seeds; see the reservoir's test for the statistic."""
    arrays, runs, n = numbered([12, 12]), 600, 12
    counts = np.zeros(24)
    for seed in range(runs):
        scenario = ClassIncremental(arrays, 1, seed, validation=1 / 6)
        counts[numbers_of(scenario.evaluation(0))] += 1
    for c in (0, 1):
        rest = counts[arrays.train.y.numpy() == c]
        statistic = ((rest - runs / 6) ** 2).sum() / (runs * 5 / 36) * (n - 1) / n
        assert statistic < chi_square_limit(n - 1)


def test_without_validation_the_test_set_measures(tiny: Arrays) -> None:
    scenario = ClassIncremental(tiny, 1)
    assert scenario.split == "test"
    assert same(scenario.evaluation(0), tiny.test)
    assert same(scenario.train(0), tiny.train)


def test_classes_too_small_to_split_are_left_alone() -> None:
    scenario = ClassIncremental(numbered([5, 1, 0]), 3, validation=0.5)
    assert [len(scenario.train(c)) for c in range(3)] == [3, 1, 0]
    assert [len(scenario.evaluation(c)) for c in range(3)] == [2, 0, 0]


# --- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ClassIncremental, {"n_tasks": 0}, r"dataset\.n_tasks=0: must be 1 or more"),
        (PermutedPixels, {"n_tasks": -3}, r"dataset\.n_tasks=-3"),
        (ClassIncremental, {"n_tasks": 11}, r"dataset\.n_tasks=11: there are 10 classes"),
        (ClassIncremental, {"validation": 1.0}, r"dataset\.validation=1\.0: must be a fraction"),
        (ClassIncremental, {"validation": -0.1}, r"dataset\.validation=-0\.1"),
        (ClassIncremental, {"class_order": "alphabetic"}, r"dataset\.class_order=alphabetic: must"),
        (ClassIncremental, {"class_order": [0, 1]}, r"dataset\.class_order=\[0, 1\]"),
        (ClassIncremental, {"class_order": [0, *range(9)]}, r"dataset\.class_order.*once"),
        (ClassIncremental, {"class_order": [*range(10), 3]}, r"dataset\.class_order"),
        (ClassIncremental, {"class_order": [*range(9), "nine"]}, r"dataset\.class_order"),
        (ClassIncremental, {"class_order": [*range(9), [9]]}, r"dataset\.class_order"),
        (PermutedPixels, {"class_order": [None] * 10}, r"dataset\.class_order"),
    ],
    ids=[
        "no-tasks",
        "negative-tasks",
        "more-tasks-than-classes",
        "all-held-out",
        "negative-fraction",
        "unknown-word",
        "short",
        "twice",
        "long",
        "text",
        "nested",
        "nulls",
    ],
)
def test_mistakes_are_named_by_their_key(
    tiny: Arrays, kind: type[Scenario], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        kind(tiny, **{"n_tasks": 2, **options})
