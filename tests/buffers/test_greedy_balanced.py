"""GDumb's sampler against a plain transcription of the paper's algorithm."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.buffers.base import Buffer
from perdure.buffers.class_slots import ClassSlots
from perdure.buffers.greedy_balanced import GreedyBalanced
from perdure.buffers.policy import Offer

MakeFields = Callable[..., dict[str, Any]]


def held_by_class(buffer: Buffer) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    contents = buffer.contents()
    for number, c in zip(contents["id"].tolist(), contents["y"].tolist(), strict=True):
        found.setdefault(c, set()).add(number)
    return found


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 15),
    classes=st.integers(1, 6),
    n=st.integers(1, 80),
)
def test_follows_the_paper_s_algorithm(
    make_fields: MakeFields, seed: int, size: int, classes: int, n: int
) -> None:
    """Prabhu et al. 2020, Alg. 1, an example at a time; whom it replaced is read from the buffer.

    In one batch the same examples are stored.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    picks = generator.random(n)
    buffer, batch = Buffer(GreedyBalanced(size, 1)), Buffer(GreedyBalanced(size, 1))
    expected: dict[int, set[int]] = {}
    for number, y in enumerate(labels.tolist()):
        one = labels[number : number + 1]
        buffer.add(make_fields([number], one), one, Given(picks[number : number + 1]))
        counts = {c: len(numbers) for c, numbers in expected.items()}
        if y not in counts or counts[y] < size / len(counts):
            if sum(counts.values()) >= size:
                held = held_by_class(buffer)
                gone = [(c, i) for c, ids in expected.items() for i in ids - held.get(c, set())]
                ((largest, i),) = gone
                assert counts[largest] == max(counts.values())
                expected[largest].remove(i)
            expected.setdefault(y, set()).add(number)
        assert held_by_class(buffer) == {c: ids for c, ids in expected.items() if ids}
    batch.add(make_fields(np.arange(n), labels), labels, Given(picks))
    assert held_by_class(batch) == held_by_class(buffer)


class Given:
    """Gives these numbers."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        assert self.values.shape == (size,)
        return self.values


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), classes=st.integers(1, 8))
def test_counts_differ_by_one_at_most_and_no_place_is_empty(
    make_fields: MakeFields, seed: int, size: int, classes: int
) -> None:
    """Where every class has enough examples, whatever order they come in."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 60)
    if seed % 2:
        labels = generator.permutation(labels)
    buffer = Buffer(GreedyBalanced(size, 1))
    for start in range(0, len(labels), 7):
        part = labels[start : start + 7]
        buffer.add(make_fields(np.arange(start, start + len(part)), part), part, generator)
    counts = Counter(buffer.contents()["y"].tolist())
    assert sum(counts.values()) == size
    most = max(counts.values())
    assert all(counts[c] >= most - 1 for c in range(classes))


@pytest.mark.parametrize("size", [200, 50_000])
def test_an_example_costs_the_same_in_a_buffer_of_any_size(size: int) -> None:
    """Counted in lines of the policy's own code, of which each list has a fixed number."""
    policy, generator = GreedyBalanced(size, 1), np.random.default_rng(0)
    policy.place(Offer(np.arange(size) % 100), generator)
    late = Offer(np.arange(100, 120))
    files = {f.__code__.co_filename for f in (GreedyBalanced.place, ClassSlots.append)}
    lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
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
