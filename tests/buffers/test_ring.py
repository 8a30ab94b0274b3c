"""Ring buffers against a deque for each class or task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.buffers.base import Buffer
from perdure.buffers.ring import ClassRing, Ring, TaskRing
from perdure.errors import UserError

MakeFields = Callable[..., dict[str, Any]]
KINDS = {"class": ClassRing, "task": TaskRing}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(4, 30),
    batches=st.lists(st.integers(1, 40), min_size=1, max_size=10),
    other=st.integers(4, 30),
)
def test_holds_the_last_examples_of_each_group(
    make_fields: MakeFields, kind: str, seed: int, size: int, batches: list[int], other: int
) -> None:
    """Whatever the batches; one of another size takes over the last of these."""
    buffer, generator = Buffer(KINDS[kind](size, 1, 4)), np.random.default_rng(seed)
    last: dict[int, deque[int]] = {}
    first, task = 0, 0
    for n in batches:
        numbers, labels = np.arange(first, first + n), generator.integers(0, 4, n)
        task = min(3, task + int(generator.integers(0, 2)))
        buffer.add(make_fields(numbers, labels), labels, generator, task)
        for number, label in zip(numbers.tolist(), labels.tolist(), strict=True):
            group = label if kind == "class" else task
            last.setdefault(group, deque(maxlen=size // 4)).append(number)
        first += n
    assert sorted(buffer.contents()["id"].tolist()) == sorted(
        i for ids in last.values() for i in ids
    )
    moved = Buffer(KINDS[kind](other, 1, 4))
    moved.adopt(buffer.state_dict(), generator)
    kept = [i for ids in last.values() for i in list(ids)[-(other // 4) :]]
    assert sorted(moved.contents()["id"].tolist()) == sorted(kept)


def test_a_state_with_other_shares_does_not_fit(make_fields: MakeFields) -> None:
    state = Buffer(TaskRing(10, 1, 2)).state_dict()
    assert TaskRing(10, 1, 2).fits(state)
    assert not TaskRing(10, 1, 5).fits(state)
    assert not TaskRing(12, 1, 2).fits(state)


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_needs_a_place(kind: str) -> None:
    plural = f"{kind}es" if kind == "class" else f"{kind}s"
    message = rf"^buffer\.size=3: must be 4 or more, one place for each of the 4 {plural}$"
    with pytest.raises(UserError, match=message):
        KINDS[kind](3, 1, 4)


def test_more_groups_than_the_benchmark_has_are_refused(make_fields: MakeFields) -> None:
    ring: Ring = ClassRing(4, 1, 2)
    buffer, labels = Buffer(ring), np.array([0, 1, 2])
    with pytest.raises(UserError, match="divided among 2 classes, and examples of 3 have come"):
        buffer.add(make_fields(np.arange(3), labels), labels, np.random.default_rng(0))
