"""What a buffer stores, draws and saves, whatever its policy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.errors import UserError

MakeFields = Callable[..., dict[str, Tensor]]


def filled(make_fields: MakeFields, n: int, size: int = 10) -> Buffer:
    """A reservoir that was offered `n` examples, numbered from 1."""
    buffer, numbers = Buffer(Reservoir(size, 4)), np.arange(1, n + 1)
    buffer.add(make_fields(numbers, numbers % 3), numbers % 3, np.random.default_rng(0))
    return buffer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0, "batch_size": 1}, r"buffer.size=0: must be 1 or more"),
        ({"size": -5, "batch_size": 1}, r"buffer.size=-5"),
        ({"size": 5, "batch_size": 0}, r"buffer.batch_size=0: must be 1 or more"),
    ],
    ids=["none", "negative", "batch"],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reservoir(**options)


def test_images_stay_bytes_and_memory_is_detached(make_fields: MakeFields) -> None:
    labels = np.array([1, 2])
    fields = make_fields([5, 6], labels)
    fields["logits"].requires_grad_()
    buffer = Buffer(Reservoir(4, 1))
    buffer.add({**fields, "logits": fields["logits"] * 2}, labels, np.random.default_rng(0))
    held = buffer.contents()
    assert held["raw"].dtype == torch.uint8
    assert held["y"].dtype == torch.int64
    assert not held["logits"].requires_grad
    assert torch.equal(held["logits"], fields["logits"].detach() * 2)
    fields["raw"].zero_()
    assert held["raw"].any(), "the buffer shares the batch's memory"


def test_draws_are_without_replacement_and_keep_fields_together(make_fields: MakeFields) -> None:
    buffer, generator = filled(make_fields, 30), np.random.default_rng(1)
    for n in (1, 4, 10):
        drawn = buffer.draw(n, generator)
        numbers = drawn["id"].tolist()
        assert len(set(numbers)) == n
        assert set(numbers) <= set(buffer.contents()["id"].tolist())
        expected_fields = make_fields(numbers, np.array(numbers) % 3)
        assert all(torch.equal(drawn[key], expected_fields[key]) for key in expected_fields)


@pytest.mark.parametrize("stored", [1, 3, 10], ids=str)
def test_a_draw_gives_what_there_is(make_fields: MakeFields, stored: int) -> None:
    drawn = filled(make_fields, stored).draw(50, np.random.default_rng(0))
    assert sorted(drawn["id"].tolist()) == list(range(1, stored + 1))


def test_a_draw_is_a_copy(make_fields: MakeFields) -> None:
    buffer = filled(make_fields, 10)
    before = buffer.contents()["raw"].clone()
    buffer.draw(10, np.random.default_rng(0))["raw"].zero_()
    assert torch.equal(buffer.contents()["raw"], before)


def test_every_set_is_drawn_as_often(
    make_fields: MakeFields, chi_square_limit: Callable[[int], float]
) -> None:
    buffer, generator, runs = filled(make_fields, 7, size=9), np.random.default_rng(2), 3000
    found = Counter(tuple(sorted(buffer.draw(3, generator)["id"].tolist())) for _ in range(runs))
    sets = list(itertools.combinations(range(1, 8), 3))
    expected = runs / len(sets)
    statistic = sum((found[s] - expected) ** 2 / expected for s in sets)
    assert set(found) == set(sets)
    assert statistic < chi_square_limit(len(sets) - 1)


def test_a_partly_filled_buffer_comes_back_partly_filled(make_fields: MakeFields) -> None:
    """The rows that hold nothing yet must not become examples of zeros."""
    state = filled(make_fields, 3).state_dict()
    assert all(len(value) == 3 for value in state["fields"].values())
    buffer = Buffer(Reservoir(10, 4))
    buffer.load_state_dict(state)
    assert (len(buffer), buffer.seen) == (3, 3)
    generator = np.random.default_rng(3)
    for _ in range(20):
        assert sorted(buffer.draw(10, generator)["id"].tolist()) == [1, 2, 3]
    labels = np.zeros(4, dtype=np.int64)
    buffer.add(make_fields([50, 51, 52, 53], labels), labels, generator)
    assert buffer.contents()["id"].tolist() == [1, 2, 3, 50, 51, 52, 53]


def test_the_counter_survives(make_fields: MakeFields) -> None:
    """A counter that starts again would fill a full buffer with the newest examples."""
    buffer = Buffer(Reservoir(10, 4))
    buffer.load_state_dict(filled(make_fields, 5000).state_dict())
    assert buffer.seen == 5000
    labels = np.zeros(10, dtype=np.int64)
    buffer.add(make_fields(range(9000, 9010), labels), labels, np.random.default_rng(4))
    assert (buffer.contents()["id"] >= 9000).sum() <= 2


def test_a_buffer_that_was_offered_nothing_round_trips(make_fields: MakeFields) -> None:
    buffer = Buffer(Reservoir(10, 4))
    buffer.load_state_dict(Buffer(Reservoir(10, 4)).state_dict())
    assert (len(buffer), buffer.seen, buffer.contents()) == (0, 0, {})
    labels = np.zeros(2, dtype=np.int64)
    buffer.add(make_fields([7, 8], labels), labels, np.random.default_rng(0))
    assert buffer.contents()["id"].tolist() == [7, 8]


def test_a_loaded_buffer_leaves_the_state_that_it_came_from_alone(make_fields: MakeFields) -> None:
    buffer, state = Buffer(Reservoir(10, 4)), filled(make_fields, 10).state_dict()
    saved = {key: value.clone() for key, value in state["fields"].items()}
    buffer.load_state_dict(state)
    labels = np.zeros(100, dtype=np.int64)
    buffer.add(make_fields(range(500, 600), labels), labels, np.random.default_rng(0))
    assert (buffer.contents()["id"] >= 500).any()
    assert all(torch.equal(state["fields"][key], value) for key, value in saved.items())


def test_examples_that_another_method_remembered_are_refused(make_fields: MakeFields) -> None:
    buffer, labels = filled(make_fields, 3), np.zeros(2, dtype=np.int64)
    fields = make_fields([7, 8], labels)
    del fields["logits"]
    with pytest.raises(UserError, match=r"holds raw, y, logits, id of each.* raw, y, id"):
        buffer.add(fields, labels, np.random.default_rng(0))


def test_a_state_of_another_size_is_refused(make_fields: MakeFields) -> None:
    state = filled(make_fields, 3).state_dict()
    with pytest.raises(UserError, match=r"buffer\.size=20: the checkpoint's buffer has size 10"):
        Buffer(Reservoir(20, 4)).load_state_dict(state)
