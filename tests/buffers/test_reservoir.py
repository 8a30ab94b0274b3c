"""The vectorized reservoir is Algorithm R: to the slot given the draws, and in distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.buffers.base import Buffer
from perdure.buffers.policy import Offer
from perdure.buffers.reservoir import Reservoir

Limit = Callable[[int], float]


def algorithm_r(slots: list[int], seen: int, number: int, size: int, u: float) -> None:
    """One example of Algorithm R: fill, then replace slot r = ⌊u (seen + 1)⌋."""
    if seen < size:
        slots.append(number)
        return
    r = int(u * (seen + 1))
    assert 0 <= r <= seen
    if r < size:
        slots[r] = number


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 12),
    batches=st.lists(st.integers(0, 9) | st.integers(10, 200), min_size=1, max_size=8),
)
@example(seed=0, size=1, batches=[1, 1, 1, 50])
@example(seed=0, size=7, batches=[5000, 1])
@example(seed=0, size=10, batches=[3, 7, 10])
@example(seed=0, size=10, batches=[0, 11])
def test_equals_the_loop_over_examples_given_the_same_numbers(
    seed: int,
    size: int,
    batches: list[int],
    make_fields: Callable[..., dict[str, torch.Tensor]],
    watched: type[Any],
) -> None:
    generator = watched(seed)
    buffer, expected, seen = Buffer(Reservoir(size, 1)), list[int](), 0
    for n in batches:
        numbers = np.arange(seen, seen + n)
        buffer.add(make_fields(numbers, numbers % 5), numbers % 5, generator)
        uniforms = generator.uniforms_drawn.pop().tolist() if n else []
        for number, u in zip(numbers.tolist(), uniforms, strict=True):
            algorithm_r(expected, number, number, size, u)
        assert not generator.uniforms_drawn, "numbers that no example used"
        seen += n
        assert buffer.seen == seen
        assert len(buffer) == len(expected) == min(seen, size)
        if expected:
            held = buffer.contents()
            assert held["id"].tolist() == expected
            expected_fields = make_fields(expected, np.array(expected) % 5)
            assert all(torch.equal(held[key], expected_fields[key]) for key in held)


class Scripted:
    """Uniform numbers by which the examples from number `seen` on choose these slots."""

    def __init__(self, seen: int, *slots: int) -> None:
        self.values = (np.array(slots) + 0.5) / (np.arange(seen, seen + len(slots)) + 1)

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        assert size == len(self.values)
        return self.values


def test_of_two_that_choose_one_slot_the_later_stays(
    make_fields: Callable[..., dict[str, torch.Tensor]],
) -> None:
    buffer, labels = Buffer(Reservoir(3, 1)), np.zeros(3, dtype=np.int64)
    buffer.add(make_fields([0, 1, 2], labels), labels, np.random.default_rng(0))
    labels = np.zeros(6, dtype=np.int64)
    buffer.add(make_fields(range(10, 16), labels), labels, Scripted(3, 1, 3, 1, 0, 1, 5))
    assert buffer.contents()["id"].tolist() == [13, 14, 2]
    rows, slots = Reservoir(2, 1).place(Offer(np.zeros(4, dtype=np.int64)), Scripted(0, 0, 0, 0, 0))
    assert dict(zip(slots, rows, strict=True)) == {0: 3, 1: 1}


class Highest:
    """The largest uniform number that there is."""

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        return np.full(size, np.nextafter(1.0, 0.0))


@given(seen=st.integers(1, 2**50))
def test_no_rounding_chooses_a_slot_beyond_the_examples_seen(seen: int) -> None:
    policy = Reservoir(seen + 1, 1)
    policy.seen = policy.held = seen + 1
    assert policy.place(Offer(np.zeros(1, dtype=np.int64)), Highest()) == ([], [])


def final_slots(size: int, batches: tuple[int, ...], runs: int) -> np.ndarray:
    """Which example each slot holds at the end; int64 [runs, size]."""
    generator = np.random.default_rng(12345)
    held = np.empty((runs, size), dtype=np.int64)
    for run in range(runs):
        policy = Reservoir(size, 1)
        for n in batches:
            rows, slots = policy.place(Offer(np.zeros(n, dtype=np.int64)), generator)
            held[run, slots] = np.array(rows) + policy.seen
            policy.seen += n
            policy.held = min(policy.seen, size)
    return held


@pytest.fixture(scope="module")
def slots_of_many_runs() -> np.ndarray:
    """Buffers of 10 after 50 examples that came in uneven batches."""
    return final_slots(10, (7, 7, 1, 20, 12, 3), 5000)


def test_every_example_is_kept_with_the_same_probability(
    slots_of_many_runs: np.ndarray, chi_square_limit: Limit
) -> None:
    """k of n are kept, so the counts' variance is R p (1 − p) and they are correlated by
    −1/(n − 1): Σ (O − E)² / (R p (1 − p)) · (n − 1)/n is a χ² of n − 1 degrees."""
    (runs, k), n = slots_of_many_runs.shape, 50
    counts, p = np.bincount(slots_of_many_runs.ravel(), minlength=n), k / n
    statistic = ((counts - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (n - 1) / n
    assert statistic < chi_square_limit(n - 1)


def test_every_slot_is_replaced_alike(
    slots_of_many_runs: np.ndarray, chi_square_limit: Limit
) -> None:
    """Slot s holds its first example s with probability k/n, each later one with 1/n."""
    (runs, k), n = slots_of_many_runs.shape, 50
    for slot in range(k):
        counts = np.bincount(slots_of_many_runs[:, slot], minlength=n)
        assert counts[:k].sum() == counts[slot]
        observed = np.array([counts[slot], *counts[k:]])
        expected = runs / n * np.array([k, *[1] * (n - k)])
        assert ((observed - expected) ** 2 / expected).sum() < chi_square_limit(n - k)


@pytest.mark.parametrize(
    "batches", [(8,), (3, 5), (1,) * 8, (2, 4, 2)], ids=lambda batches: "+".join(map(str, batches))
)
def test_every_set_of_examples_is_as_likely(
    batches: tuple[int, ...], chi_square_limit: Limit
) -> None:
    """All C(8, 3) sets, and with them all pairs and all order statistics."""
    runs = 3000
    found = Counter(tuple(sorted(row)) for row in final_slots(3, batches, runs).tolist())
    sets = list(itertools.combinations(range(8), 3))
    expected = runs / len(sets)
    statistic = sum((found[s] - expected) ** 2 / expected for s in sets)
    assert statistic < chi_square_limit(len(sets) - 1)


def test_the_latest_kept_example_follows_its_law() -> None:
    """P(max < m) = C(m, k) / C(n, k): Kolmogorov's distance stays under 1.95/√R (1 in 1000)."""
    runs, n, k = 4000, 40, 4
    latest = final_slots(k, (9, 9, 9, 13), runs).max(1)
    ways = np.array([np.prod([(m - i) / (n - i) for i in range(k)]) for m in range(1, n + 1)])
    observed = np.cumsum(np.bincount(latest, minlength=n)) / runs
    assert np.abs(observed - np.clip(ways, 0, None)).max() < 1.95 / runs**0.5
