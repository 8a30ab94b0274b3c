"""The class-balancing reservoir against a plain transcription of its paper's algorithm."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import assert_same

from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.class_slots import ClassSlots
from perdure.buffers.policy import Offer
from perdure.buffers.quotas import occurrences

MakeFields = Callable[..., dict[str, torch.Tensor]]


class Reference:
    """Chrysakis & Moens 2020, Alg. 1, one example at a time; instances by class, oldest first.

    "The memory is filled when all of its storage units are occupied. When a certain class contains
    the most instances among all the classes present in the memory, we will call it the largest.
    Two or more classes can be the largest, if they are equal in size. We call a class full if it
    currently is, or has been in one of the previous time steps, the largest class." Classes grow
    freely while the memory fills, so a class can be full only once it is filled.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.instances: dict[int, list[int]] = {}
        self.encountered: Counter[int] = Counter()
        self.full: set[int] = set()

    def largest(self) -> list[int]:
        most = max(len(members) for members in self.instances.values())
        return [c for c, members in self.instances.items() if len(members) == most]

    def offer(self, number: int, c: int, keep: float, held: dict[int, list[int]]) -> None:
        """Take in one example; `held` is what another memory holds after it, by class.

        Which one of the candidates it replaced is read from there, and must be one of them.
        """
        self.encountered[c] += 1
        members = self.instances.setdefault(c, [])
        if sum(map(len, self.instances.values())) < self.size:
            members.append(number)
            return
        self.full |= set(self.largest())
        if c not in self.full:
            rivals = [(k, i) for k in self.largest() for i in self.instances[k]]
        elif members and keep <= len(members) / self.encountered[c]:
            rivals = [(c, i) for i in members]
        else:
            return
        gone = [
            (k, i) for k, ids in self.instances.items() for i in ids if i not in held.get(k, ())
        ]
        assert len(gone) == 1
        assert gone[0] in rivals
        self.instances[gone[0][0]].remove(gone[0][1])
        members.append(number)


def contents_by_class(buffer: Buffer) -> dict[int, list[int]]:
    by_class: dict[int, list[int]] = {}
    if not len(buffer):
        return by_class
    held = buffer.contents()
    for number, c in zip(held["id"].tolist(), held["y"].tolist(), strict=True):
        by_class.setdefault(c, []).append(number)
    return {c: sorted(numbers) for c, numbers in by_class.items()}


@st.composite
def streams(draw: st.DrawFn) -> tuple[int, int, list[np.ndarray]]:
    """A seed, a size, and batches of labels: classes come and go, with uneven weights."""
    seed, size = draw(st.integers(0, 2**32)), draw(st.integers(1, 15))
    rng = np.random.default_rng(seed)
    batches = []
    for n in draw(st.lists(st.integers(0, 40), min_size=1, max_size=12)):
        classes = rng.choice(7, rng.integers(1, 5), replace=False)
        weights = rng.random(len(classes)) ** 4 + 1e-3
        batches.append(rng.choice(classes, n, p=weights / weights.sum()))
    return seed, size, batches


@settings(deadline=None, max_examples=200)
@given(streams())
def test_follows_the_paper_s_algorithm(
    make_fields: MakeFields, watched: type[Any], stream: tuple[int, int, list[np.ndarray]]
) -> None:
    """One example at a time: who is stored, and that it replaced one of those it may replace."""
    seed, size, batches = stream
    buffer, reference, generator = (
        Buffer(ClassBalancedReservoir(size, 1)),
        Reference(size),
        watched(seed),
    )
    for number, c in enumerate(np.concatenate(batches).tolist()):
        buffer.add(make_fields([number], np.array([c])), np.array([c]), generator)
        ((keep,), _) = generator.uniforms_drawn.pop()
        reference.offer(number, c, keep, contents_by_class(buffer))
        expected = {c: sorted(numbers) for c, numbers in reference.instances.items() if numbers}
        assert contents_by_class(buffer) == expected
        assert buffer.seen == number + 1
        assert len(buffer) == min(number + 1, size)


@settings(deadline=None, max_examples=100)
@given(streams())
def test_a_batch_is_its_examples_one_after_another(
    make_fields: MakeFields, stream: tuple[int, int, list[np.ndarray]]
) -> None:
    seed, size, batches = stream
    whole, single = Buffer(ClassBalancedReservoir(size, 1)), Buffer(ClassBalancedReservoir(size, 1))
    start = 0
    for labels in batches:
        numbers = np.arange(start, start + len(labels))
        whole.add(make_fields(numbers, labels), labels, np.random.default_rng((seed, start)))
        drawn = np.random.default_rng((seed, start)).random((2, len(labels)))
        for i, number in enumerate(numbers.tolist()):
            one = labels[i : i + 1]
            single.add(make_fields([number], one), one, Given(drawn[:, i : i + 1]))
        assert contents_by_class(whole) == contents_by_class(single)
        start += len(labels)


class Given:
    """Gives these numbers."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        assert self.values.shape == size
        return self.values


def test_every_rival_is_replaced_as_often(chi_square_limit: Callable[[int], float]) -> None:
    """A fourth class meets three of the largest: each of their nine slots is as likely."""
    labels, counts, runs = np.repeat([0, 1, 2], 3), np.zeros(9), 1800
    for run in range(runs):
        policy, generator = ClassBalancedReservoir(9, 1), np.random.default_rng(run)
        policy.place(Offer(labels), generator)
        _, (slot,) = policy.place(Offer(np.array([3])), generator)
        counts[slot] += 1
    assert ((counts - runs / 9) ** 2 / (runs / 9)).sum() < chi_square_limit(8)


@pytest.mark.parametrize("size", [200, 5_000, 50_000])
def test_an_example_costs_the_same_in_a_buffer_of_any_size(size: int) -> None:
    """Counted in lines of the policy's own code, of which each list has a fixed number."""
    labels = np.arange(size) % 1000
    policy, generator = ClassBalancedReservoir(size, 1), np.random.default_rng(0)
    for start in range(0, size, 1000):
        policy.place(Offer(labels[start : start + 1000]), generator)
    late = Offer(np.arange(1000, 1020))
    code = {
        f.__code__.co_filename
        for f in (ClassBalancedReservoir.place, ClassSlots.append, occurrences)
    }
    lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in code:
            return None
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        _, slots = policy.place(late, generator)
    finally:
        sys.settrace(None)
    assert len(slots) > 15
    assert 100 < lines < 1_500


@settings(deadline=None, max_examples=100)
@given(streams())
def test_classes_end_as_equal_as_their_numbers_allow(
    make_fields: MakeFields, stream: tuple[int, int, list[np.ndarray]]
) -> None:
    """A class keeps all its examples, or at most one fewer than the largest class holds."""
    seed, size, batches = stream
    buffer, generator, offered = (
        Buffer(ClassBalancedReservoir(size, 1)),
        np.random.default_rng(seed),
        0,
    )
    encountered: Counter[int] = Counter()
    for labels in batches:
        numbers = np.arange(offered, offered + len(labels))
        buffer.add(make_fields(numbers, labels), labels, generator)
        offered += len(labels)
        encountered.update(labels.tolist())
        if offered > size:
            held = {c: len(numbers) for c, numbers in contents_by_class(buffer).items()}
            most = max(held.values())
            for c, n in encountered.items():
                assert held.get(c, 0) == n or held.get(c, 0) >= most - 1


def test_a_task_after_another_leaves_equal_shares(make_fields: MakeFields) -> None:
    """The stream that a plain reservoir serves badly: the last class is a hundredth of it."""
    labels = np.repeat([0, 1, 2, 3, 4], [3000, 3000, 3000, 20, 90])
    buffer, generator = Buffer(ClassBalancedReservoir(100, 1)), np.random.default_rng(0)
    for start in range(0, len(labels), 10):
        part = labels[start : start + 10]
        buffer.add(make_fields(np.arange(start, start + len(part)), part), part, generator)
    shares = {c: len(numbers) for c, numbers in contents_by_class(buffer).items()}
    assert shares == {0: 20, 1: 20, 2: 20, 3: 20, 4: 20}


def test_each_class_is_a_uniform_sample_of_its_stream(
    chi_square_limit: Callable[[int], float],
) -> None:
    """As in the reservoir's test: the counts of n, of which m are kept, give a χ² of n − 1."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], [30, 9]))
    runs, generator = 2500, np.random.default_rng(7)
    counts, slots_held = np.zeros(len(labels)), np.zeros(12, dtype=np.int64)
    for _ in range(runs):
        policy = ClassBalancedReservoir(12, 1)
        for start in range(0, len(labels), 8):
            part = labels[start : start + 8]
            rows, slots = policy.place(Offer(part), generator)
            slots_held[slots] = np.array(rows) + start
        counts[slots_held] += 1
    for c in (0, 1):
        of_class, n = counts[labels == c], int((labels == c).sum())
        p = 6 / n
        assert of_class.sum() == 6 * runs
        statistic = ((of_class - runs * p) ** 2).sum() / (runs * p * (1 - p)) * (n - 1) / n
        assert statistic < chi_square_limit(n - 1)


@settings(deadline=None, max_examples=60)
@given(streams(), st.integers(0, 11))
def test_a_loaded_buffer_makes_the_same_decisions(
    make_fields: MakeFields, stream: tuple[int, int, list[np.ndarray]], cut: int
) -> None:
    seed, size, batches = stream
    straight, current = (
        Buffer(ClassBalancedReservoir(size, 1)),
        Buffer(ClassBalancedReservoir(size, 1)),
    )
    offered = 0
    for i, labels in enumerate(batches):
        if i == cut:
            saved, current = current.state_dict(), Buffer(ClassBalancedReservoir(size, 1))
            current.load_state_dict(saved)
        fields = make_fields(np.arange(offered, offered + len(labels)), labels)
        for buffer in (straight, current):
            buffer.add(fields, labels, np.random.default_rng((seed, i)))
        held = straight.contents(), current.contents()
        assert held[0].keys() == held[1].keys()
        assert all(torch.equal(held[0][key], held[1][key]) for key in held[0])
        offered += len(labels)
    assert_same(straight.state_dict(), current.state_dict())


@pytest.mark.parametrize("fresh_class", [3, 12], ids=["known-range", "beyond"])
def test_a_class_never_seen_takes_from_the_largest(
    make_fields: MakeFields, fresh_class: int
) -> None:
    labels = np.array([0] * 6 + [1] * 2)
    buffer, generator = Buffer(ClassBalancedReservoir(8, 1)), np.random.default_rng(0)
    buffer.add(make_fields(np.arange(8), labels), labels, generator)
    late = np.full(3, fresh_class)
    buffer.add(make_fields(np.arange(8, 11), late), late, generator)
    shares = {c: len(numbers) for c, numbers in contents_by_class(buffer).items()}
    assert shares == {0: 3, 1: 2, fresh_class: 3}
