"""Confusion counts and per-class accuracy, against counting one by one."""

from __future__ import annotations

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.metrics.confusion import MOST_DENSE, Confusion

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)


def confusion(answers: list[tuple[int, int]], names: tuple[str, ...] = tuple("abcd")) -> Confusion:
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    for true, predicted in answers:
        counts[true, predicted] += 1
    return Confusion(counts, names, 2)


@given(pairs)
def test_per_class_accuracy_is_counted_one_by_one(answers: list[tuple[int, int]]) -> None:
    found = confusion(answers).per_class_accuracy()
    for label, name in enumerate("abcd"):
        own = [true == predicted for true, predicted in answers if true == label]
        assert found.get(name) == (sum(own) / len(own) if own else None)


@given(pairs)
def test_a_state_goes_through_a_file(answers: list[tuple[int, int]]) -> None:
    file = io.BytesIO()
    torch.save(confusion(answers).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert Confusion.of_state(state).as_json() == confusion(answers).as_json()


def test_classes_of_one_name_are_called_by_their_numbers() -> None:
    assert confusion([(0, 0), (1, 0)], ("a", "a")).per_class_accuracy() == {"0": 1.0, "1": 0.0}


def test_many_classes_are_written_as_triples() -> None:
    names = tuple(map(str, range(MOST_DENSE + 1)))
    found = confusion([(0, 7), (0, 7), (200, 200)], names).as_json()
    assert "counts" not in found
    assert found["nonzero"] == [[0, 7, 2], [200, 200, 1]]
    assert len(json.dumps(confusion([], names[:-1]).as_json())) < 200_000


def test_a_state_of_classes_that_are_not_named() -> None:
    state = confusion([(3, 1)]).state_dict()
    state["classes"] = state["classes"][:3]
    with pytest.raises(ValueError, match="beyond the 3"):
        Confusion.of_state(state)
