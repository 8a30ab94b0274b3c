"""The same number of examples of each task: against a plain loop, and which ones they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.buffers.base import Buffer
from perdure.buffers.task_balanced import TaskBalanced
from perdure.errors import UserError

MakeFields = Callable[..., dict[str, Any]]


def stored(buffer: Buffer) -> dict[int, list[int]]:
    """The numbers of the examples of each task, in the order of their slots."""
    held, found = buffer.contents(), {}
    for number, task in zip(held["id"].tolist(), held["task"].tolist(), strict=True):
        found.setdefault(task, []).append(number)
    return found


def end_task(buffer: Buffer, make_fields: MakeFields, task: int, n: int, seed: int = 0) -> None:
    """A task of `n` examples, numbered from 1000 · task."""
    numbers = 1000 * task + np.arange(n)
    generator = np.random.default_rng((seed, task))
    buffer.add(make_fields(numbers, numbers % 3), numbers % 3, generator, task)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(5, 40), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_earlier_tasks_keep_their_first_examples(
    make_fields: MakeFields, size: int, sizes: list[int]
) -> None:
    buffer = Buffer(TaskBalanced(size, 5, 5))
    expected: dict[int, list[int]] = {}
    for task, n in enumerate(sizes):
        end_task(buffer, make_fields, task, n)
        places = size // (task + 1)
        found = stored(buffer)
        for earlier, numbers in expected.items():
            assert found[earlier] == numbers[:places]
        assert len(found[task]) == min(n, places)
        assert {number // 1000 for number in found[task]} == {task}
        expected = found
    # As a refactored code of the authors did not: of each task there is an example.
    assert sorted(expected) == list(range(len(sizes)))


def test_a_task_s_examples_are_a_random_choice(
    make_fields: MakeFields, chi_square_limit: Callable[[int], float]
) -> None:
    """Each of 12 as often: of the last task, and of an earlier one that shrank from 6 to 3."""
    counts = np.zeros((2, 12))
    for seed in range(2000):
        buffer = Buffer(TaskBalanced(6, 5, 2))
        for task in range(2):
            end_task(buffer, make_fields, task, 12, seed)
        for task, numbers in stored(buffer).items():
            counts[task, np.array(numbers) % 1000] += 1
    assert counts.sum(1).tolist() == [6000, 6000]
    # Without replacement the counts vary less: by 9/11 of what independent draws would.
    chi_square = ((counts - 500) ** 2 / 500).sum(1)
    assert (chi_square < chi_square_limit(11)).all()
    assert (chi_square > 1).all()


def test_a_task_offered_in_two_parts_keeps_its_share(make_fields: MakeFields) -> None:
    """As when a buffer of another policy is taken over."""
    buffer = Buffer(TaskBalanced(12, 5, 2))
    end_task(buffer, make_fields, 0, 4)
    numbers = 500 + np.arange(20)
    buffer.add(make_fields(numbers, numbers % 3), numbers % 3, np.random.default_rng(0), 0)
    found = stored(buffer)[0]
    assert len(found) == 12
    assert len([number for number in found if number < 500]) == 4


def test_fewer_places_than_tasks_are_refused() -> None:
    with pytest.raises(UserError, match=r"^buffer\.size=4: must be 5 or more, .* of the 5 tasks$"):
        TaskBalanced(4, 5, 5)
