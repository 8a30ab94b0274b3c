"""A buffer that takes over the examples of one of another size or policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.policy import StepPolicy
from perdure.buffers.reservoir import Reservoir

MakeFields = Callable[[Any, np.ndarray], Any]
Limit = Callable[[int], float]


def offer(buffer: Buffer, first: int, n: int, fields: MakeFields, seed: int) -> None:
    """Examples `first` to `first + n`, in batches of 10, with labels 0 to 3."""
    for start in range(first, first + n, 10):
        ids = np.arange(start, min(start + 10, first + n))
        labels = ids % 4
        buffer.add(fields(ids, labels), labels, np.random.default_rng((seed, start)))


def filled(buffer: Buffer, n: int, fields: MakeFields, seed: int = 0) -> Buffer:
    offer(buffer, 0, n, fields, seed)
    return buffer


def ids(buffer: Buffer) -> list[int]:
    return [int(i) for i in buffer.contents()["id"]]


@pytest.mark.parametrize("old", [Reservoir, ClassBalancedReservoir])
@pytest.mark.parametrize("new", [Reservoir, ClassBalancedReservoir])
@pytest.mark.parametrize("size", [8, 20, 50])
def test_examples_stay_whole_and_are_the_old_ones(
    old: type[StepPolicy], new: type[StepPolicy], size: int, make_fields: MakeFields
) -> None:
    before = filled(Buffer(old(20, 1)), 300, make_fields)
    buffer = Buffer(new(size, 1))
    buffer.adopt(before.state_dict(), np.random.default_rng(1))
    assert len(buffer) == min(size, 20)
    assert buffer.seen == 300
    assert set(ids(buffer)) <= set(ids(before))
    assert len(set(ids(buffer))) == len(buffer)
    offer(buffer, 300, 3000, make_fields, 2)
    assert 0.8 * size < len(buffer) <= size  # a larger reservoir is filled by and by
    held = buffer.contents()
    again = make_fields(held["id"].numpy(), held["y"].numpy())
    for key, value in held.items():
        assert value.equal(again[key]), key
    assert len(set(ids(buffer))) == len(buffer)
    other = Buffer(new(size, 1))
    other.load_state_dict(buffer.state_dict())
    for each in (buffer, other):
        offer(each, 3300, 100, make_fields, 3)
    assert ids(other) == ids(buffer)


def test_an_empty_buffer_is_taken_over_too(make_fields: MakeFields) -> None:
    buffer = Buffer(ClassBalancedReservoir(5, 1))
    buffer.adopt(Buffer(Reservoir(3, 1)).state_dict(), np.random.default_rng(1))
    assert (len(buffer), buffer.seen) == (0, 0)
    offer(buffer, 0, 30, make_fields, 0)
    assert len(buffer) == 5


def test_a_smaller_reservoir_is_a_sample_of_the_whole_stream(
    make_fields: MakeFields, chi_square_limit: Limit
) -> None:
    runs, n, k = 3000, 40, 4
    counts: Counter[int] = Counter()
    for run in range(runs):
        buffer = Buffer(Reservoir(k, 1))
        before = filled(Buffer(Reservoir(8, 1)), 20, make_fields, run)
        buffer.adopt(before.state_dict(), np.random.default_rng(10_000 + run))
        offer(buffer, 20, 20, make_fields, run)
        counts.update(ids(buffer))
    p = k / n
    found = np.array([counts[i] for i in range(n)])
    statistic = ((found - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (n - 1) / n
    assert statistic < chi_square_limit(n - 1)


def test_a_larger_reservoir_keeps_new_examples_as_one_of_its_size_would(
    make_fields: MakeFields,
) -> None:
    """Of n seen each new one is held with probability k/n, each old one that was held stays so."""
    runs, k = 1000, 16
    old = new = 0
    for run in range(runs):
        buffer = Buffer(Reservoir(k, 1))
        before = filled(Buffer(Reservoir(8, 1)), 40, make_fields, run)
        buffer.adopt(before.state_dict(), np.random.default_rng(10_000 + run))
        offer(buffer, 40, 40, make_fields, run)
        old += sum(i < 40 for i in ids(buffer))
        new += sum(i >= 40 for i in ids(buffer))
    assert new / runs == pytest.approx(40 * k / 80, rel=0.06)
    assert old / runs == pytest.approx(8 * 40 / 80, rel=0.06)


def test_counts_of_classes_follow_from_a_reservoir_s_share(make_fields: MakeFields) -> None:
    before = filled(Buffer(Reservoir(20, 1)), 300, make_fields)
    buffer = Buffer(ClassBalancedReservoir(20, 1))
    buffer.adopt(before.state_dict(), np.random.default_rng(1))
    held = Counter(int(y) for y in before.contents()["y"])
    assert buffer.state_dict()["seen_of"] == {c: 15 * n for c, n in held.items()}
    balanced = filled(Buffer(ClassBalancedReservoir(20, 1)), 300, make_fields)
    buffer = Buffer(ClassBalancedReservoir(8, 1))
    buffer.adopt(balanced.state_dict(), np.random.default_rng(1))
    assert buffer.state_dict()["seen_of"] == dict.fromkeys(range(4), 75)
