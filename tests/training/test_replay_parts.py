"""Buffers in parts: each rank's own, which counts what the others hold without an exchange."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.derpp import DERpp
from perdure.randomness import Streams
from perdure.training.replay import Local, Replicated

CPU = torch.device("cpu")


def method() -> DERpp:
    return DERpp(MLP((1, 2, 2), 10, (3,)), 1.0, 1.0)


def parts(n: int, size: int, batch_size: int, shards: int) -> list[Local]:
    return [
        Local(Buffer(Reservoir(size, batch_size)), method(), Streams(3), 11, Ranks(rank, n), shards)
        for rank in range(n)
    ]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    each=st.integers(1, 3),
    size=st.integers(4, 40),
    draw=st.integers(1, 12),
    batches=st.lists(st.integers(1, 11), min_size=1, max_size=8),
)
def test_all_ranks_agree_on_what_all_hold(
    n: int, each: int, size: int, draw: int, batches: list[int]
) -> None:
    """Totals and places of the draws fit together, whatever the sizes; no example is lost."""
    ranks = parts(n, size, draw, n * each)
    assert sum(replay.buffer.size for replay in ranks) == size
    first = 0
    for step, b in enumerate(batches):
        y = torch.arange(first, first + b)
        raw = y.to(torch.uint8).view(-1, 1, 1, 1).expand(b, 1, 2, 2)
        draws = [replay.draw(raw, y, {"step": step}) for replay in ranks]
        for number in range(2):
            drawn = [d[number] for d in draws]
            lengths = [len(d.fields["y"]) for d in drawn]
            assert {d.total for d in drawn} == {sum(lengths)}
            assert [d.first for d in drawn] == [sum(lengths[:i]) for i in range(n)]
            seen = torch.cat([d.fields["y"] for d in drawn]).tolist()
            assert len(set(seen)) == len(seen)
            assert all(value < first for value in seen)
        for replay in ranks:
            replay.add({"raw": raw, "y": y}, {}, y.numpy(), {"step": step})
        first += b
    assert sum(replay.buffer.seen for replay in ranks) == first
    held = [
        value for replay in ranks for value in replay.buffer.contents().get("y", y[:0]).tolist()
    ]
    assert len(set(held)) == len(held)
    assert len(held) == sum(min(replay.buffer.size, replay.buffer.seen) for replay in ranks)


def test_parts_are_filled_as_one_reservoir_would_be(tiny: Arrays) -> None:
    """Over many seeds every example is kept equally often, by both kinds of buffer."""
    counts = []
    y = tiny.train.y[:200]
    raw = tiny.train.x[:200]
    for local in (True, False):
        kept = torch.zeros(200)
        for seed in range(150):
            streams = Streams(seed)
            if local:
                made: list[Any] = [
                    Local(Buffer(Reservoir(40, 10)), method(), streams, 10, Ranks(rank, 2), 2)
                    for rank in range(2)
                ]
            else:
                made = [Replicated(Buffer(Reservoir(40, 10)), method(), streams, 10)]
            for k in range(20):
                rows = torch.arange(10 * k, 10 * k + 10)
                for replay in made:
                    fields = {"raw": raw[rows], "y": y[rows], "row": rows}
                    replay.add(fields, {}, y[rows].numpy(), {"step": k})
            for replay in made:
                kept[replay.buffer.contents()["row"]] += 1
        counts.append(kept.view(10, 20).sum(1))
    for kept in counts:
        # 40 of 200 in 150 runs: 600 of each twenty, with a standard deviation of at most 22.
        assert (kept - 600).abs().max() < 110
        assert kept.sum() == 6000


def test_too_small_for_all() -> None:
    with pytest.raises(UserError, match="at least one for each of the 4 processes"):
        parts(4, 3, 1, 4)


def test_a_buffer_in_parts_is_no_whole_one() -> None:
    state = parts(1, 10, 2, 2)[0].state_dict()
    assert len(state["parts"]) == 1
    whole = Replicated(Buffer(Reservoir(10, 2)), method(), Streams(0), 10)
    with pytest.raises(UserError, match=r"in 1 parts, of training\.replay_sync=local"):
        whole.load_state_dict(state, CPU)
    with pytest.raises(UserError, match="is in 1 parts; start 1 of them"):
        parts(2, 10, 2, 2)[0].load_state_dict(state, CPU)
    with pytest.raises(UserError, match="is whole"):
        parts(2, 10, 2, 2)[0].load_state_dict(whole.state_dict(), CPU)
