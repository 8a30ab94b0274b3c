"""Batches of a task: all examples once an epoch, and any step without those before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.streams import TaskStream
from perdure.randomness import Streams

Step = tuple[Tensor, Tensor, np.ndarray]


def numbered(n: int) -> Split:
    """Examples whose pixels spell their number, with labels by number."""
    numbers = torch.arange(n)
    pixels = torch.stack([numbers % 256, numbers // 256], 1).to(torch.uint8)
    return Split(pixels.view(n, 1, 1, 2), numbers * 31 % 7)


def numbers_of(raw: Tensor) -> list[int]:
    return (raw.flatten(1).long() @ torch.tensor([1, 256])).tolist()


def equal(first: list[Step], other: list[Step]) -> bool:
    return len(first) == len(other) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and np.array_equal(a[2], b[2])
        for a, b in zip(first, other, strict=True)
    )


sizes = st.tuples(st.integers(1, 300), st.integers(1, 40))


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(0, 2**40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_visits_each_example_once(
    size: tuple[int, int], seed: int, task: int, epoch: int
) -> None:
    n, batch_size = size
    stream = TaskStream(numbered(n), batch_size, Streams(seed), task, epochs=epoch + 1)
    steps = list(stream.batches(epoch))
    assert len(steps) == stream.steps_per_epoch == stream.steps_of(epoch)
    assert [len(y) for _, y, _ in steps[:-1]] == [batch_size] * (len(steps) - 1)
    visited = [number for raw, _, _ in steps for number in numbers_of(raw)]
    assert sorted(visited) == list(range(n))
    for raw, y, labels in steps:
        assert raw.dtype == torch.uint8
        assert y.tolist() == [number * 31 % 7 for number in numbers_of(raw)]
        assert labels.dtype == np.int64
        assert labels.tolist() == y.tolist()


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(0, 99), st.integers(1, 5000), st.data())
def test_starting_at_a_step_gives_exactly_the_tail(
    size: tuple[int, int], seed: int, block_bytes: int, data: st.DataObject
) -> None:
    """Wherever the blocks that are gathered at once begin and end."""
    n, batch_size = size
    whole = list(TaskStream(numbered(n), batch_size, Streams(seed), 1).batches(0))
    start = data.draw(st.integers(0, len(whole)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.datasets.streams._BLOCK_BYTES", block_bytes)
        late = TaskStream(numbered(n), batch_size, Streams(seed), 1)
        assert equal(list(late.batches(0, start)), whole[start:])
        assert equal(list(late.batches(0)), whole)


def test_blocks_hold_whole_batches_and_no_more_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """10 examples of 2 bytes a batch: 50 bytes are two batches, and 3 bytes still one."""
    gathered: list[int] = []
    gather = torch.Tensor.index_select

    def counted(self: Tensor, dim: int, index: Tensor) -> Tensor:
        gathered.append(len(index))
        return gather(self, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", counted)
    for block_bytes, blocks in ((50, [20, 20, 20, 5]), (3, [10] * 6 + [5]), (2**26, [65])):
        monkeypatch.setattr("perdure.datasets.streams._BLOCK_BYTES", block_bytes)
        gathered.clear()
        list(TaskStream(numbered(65), 10, Streams(0), 0).batches(0))
        assert gathered == [n for n in blocks for _ in ("x", "y")]


@settings(deadline=None)
@given(sizes, st.integers(1, 6), st.none() | st.integers(1, 500))
def test_steps_add_up_by_epochs_or_by_iterations(
    size: tuple[int, int], epochs: int, iterations: int | None
) -> None:
    n, batch_size = size
    stream = TaskStream(numbered(n), batch_size, Streams(0), 0, epochs, iterations)
    per_epoch = len(range(0, n, batch_size))
    assert stream.steps == (iterations or epochs * per_epoch)
    counts = [stream.steps_of(epoch) for epoch in range(stream.epochs)]
    assert sum(counts) == stream.steps
    assert counts[:-1] == [per_epoch] * (stream.epochs - 1)
    assert 1 <= counts[-1] <= per_epoch
    if iterations is None:
        assert stream.epochs == epochs
    end = stream.epochs - 1
    full = TaskStream(numbered(n), batch_size, Streams(0), 0, epochs=stream.epochs)
    assert equal(list(stream.batches(end)), list(full.batches(end))[: counts[-1]])


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(1, 8), st.integers(1, 5000), st.data())
def test_what_is_too_little_for_a_batch_joins_the_last_one(
    size: tuple[int, int], least: int, block_bytes: int, data: st.DataObject
) -> None:
    n, batch_size = size
    plain = list(TaskStream(numbered(n), batch_size, Streams(1), 2).batches(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.datasets.streams._BLOCK_BYTES", block_bytes)
        stream = TaskStream(numbered(n), batch_size, Streams(1), 2, least=least)
        steps = list(stream.batches(0))
        start = data.draw(st.integers(0, len(steps)))
        assert equal(list(stream.batches(0, start)), steps[start:])
    assert len(steps) == stream.steps
    left = n % batch_size
    if left in (0, n) or left >= least:
        assert equal(steps, plain)
    else:
        assert [len(y) for _, y, _ in steps][-1] == batch_size + left
        assert equal(steps[:-1], plain[: len(steps) - 1])
    for part in range(2):
        joined = [torch.cat([step[part] for step in each]) for each in (steps, plain)]
        assert torch.equal(*joined)
    assert (
        np.concatenate([labels for *_, labels in steps]).tolist()
        == torch.cat([y for _, y, _ in steps]).tolist()
    )


def test_order_depends_on_seed_task_and_epoch_alone(tiny: Arrays) -> None:
    def order(seed: int, task: int, epoch: int, disturb: bool = False) -> tuple[int, ...]:
        streams = Streams(seed)
        if disturb:
            streams.numpy("order", task=task, epoch=epoch).random(9)
            streams.numpy("replay").random(9)
            np.random.seed(0)
            torch.manual_seed(0)
        stream = TaskStream(numbered(100), 10, streams, task, epochs=9)
        return tuple(n for raw, _, _ in stream.batches(epoch) for n in numbers_of(raw))

    assert order(1, 2, 3) == order(1, 2, 3, disturb=True)
    assert len({order(1, 2, 3), order(2, 2, 3), order(1, 3, 3), order(1, 2, 4)}) == 4


def test_real_digits_keep_their_labels(tiny: Arrays) -> None:
    label_of = {
        x.numpy().tobytes(): y for x, y in zip(tiny.train.x, tiny.train.y.tolist(), strict=True)
    }
    for raw, y, _ in TaskStream(tiny.train, 64, Streams(0), 0).batches(0):
        assert [label_of[x.numpy().tobytes()] for x in raw] == y.tolist()


def test_a_running_epoch_is_not_disturbed_by_another(tiny: Arrays) -> None:
    """The order is drawn when the first batch is: two readers of one stream do not mix."""
    streams = Streams(0)
    stream = TaskStream(numbered(50), 10, streams, 0, epochs=2)
    expected = list(stream.batches(0))
    running = stream.batches(0)
    mixed = [next(running)]
    list(stream.batches(1))
    assert equal([*mixed, *running], expected)
