"""Sets of labels: columns of the scores and back, whatever the labels are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.datasets.classes import Classes

some = st.sets(st.integers(0, 30), max_size=12)


@given(some, some)
def test_it_is_the_ascending_set_of_its_labels(first: set[int], other: set[int]) -> None:
    a, b = Classes(first), Classes(sorted(other, reverse=True))
    assert list(a) == sorted(first) == a
    assert a == tuple(sorted(first))
    assert hash(a) == hash(Classes(sorted(first)))
    assert (a == b) == (first == other)
    assert (a | b) == sorted(first | other)
    assert (a - b) == sorted(first - other)
    assert all((label in a) == (label in first) for label in range(32))
    bounds = (min(first), max(first) + 1) if first else (0, 0)
    assert (a.start, a.stop) == bounds
    assert a.is_range == (a == range(*bounds))


@given(some.filter(bool), st.integers(1, 7))
def test_columns_and_labels_are_each_other_s_inverse(labels: set[int], n: int) -> None:
    classes, scores = Classes(labels), torch.randn(n, 31)
    assert torch.equal(classes.select(scores), scores[:, sorted(labels)])
    choice = classes.select(scores).argmax(1)
    found = classes.labels(choice)
    assert found.dtype == torch.int64
    best = [max(labels, key=lambda c: float(row[c])) for row in scores]
    assert found.tolist() == best
    assert torch.equal(classes.positions(found), choice)
    every = torch.arange(31)
    assert classes.mask(every).tolist() == [label in labels for label in range(31)]


def test_a_contiguous_set_takes_a_view() -> None:
    scores = torch.randn(3, 10)
    assert Classes(range(2, 5)).select(scores).data_ptr() == scores[:, 2:].data_ptr()
    assert Classes([2, 4]).select(scores).data_ptr() != scores[:, 2:].data_ptr()


def test_what_adds_nothing_gives_the_same_object() -> None:
    """So that its index tensors are made once a run."""
    seen = Classes([1, 4, 6])
    assert (seen | [4, 6]) is seen
    assert Classes.of(seen) is seen
    assert Classes.of(range(3)) == range(3)


def test_negative_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more, not -1"):
        Classes([-1, 2])
