"""The buffer as a method sees it between tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.datasets.transforms import Scale
from perdure.models.memory import Memory


@pytest.fixture
def buffer(tiny: Arrays) -> Buffer:
    """A reservoir of 30 digits, with a number that counts them."""
    made, split = Buffer(Reservoir(30, 5)), tiny.train
    fields = {"raw": split.x[:40], "y": split.y[:40], "number": torch.arange(40)}
    made.add(fields, split.y[:40].numpy(), np.random.default_rng(0))
    return made


def test_batches_go_through_the_memory_and_know_their_slots(buffer: Buffer) -> None:
    memory, seen = Memory(buffer, Scale()), []
    for batch in memory.batches(7):
        assert batch["number"].equal(buffer.contents()["number"][batch["index"]])
        memory.rewrite(batch["index"], {"number": batch["number"] + 100})
        assert batch.x.equal(batch.raw.float() / 255)
        seen += batch["index"].tolist()
    assert seen == list(range(30)) == list(range(len(memory)))
    assert bool((buffer.contents()["number"] >= 100).all())


def test_the_whole_memory_is_seen_without_a_copy(buffer: Buffer) -> None:
    memory = Memory(buffer, Scale())
    raw, y = memory.split()
    assert raw.dtype == torch.uint8
    assert raw.shape == (30, 1, 28, 28)
    assert raw.data_ptr() == buffer.contents()["raw"].data_ptr()
    assert memory.classes() == sorted(set(y.tolist()))


@pytest.mark.parametrize("buffer", [None, Buffer(Reservoir(5, 5))], ids=["none", "empty"])
def test_an_empty_memory(buffer: Buffer | None) -> None:
    memory = Memory(buffer, Scale())
    assert (len(memory), list(memory.batches(3)), memory.classes()) == (0, [], [])
    with pytest.raises(ValueError, match="holds no example"):
        memory.split()
