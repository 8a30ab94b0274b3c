"""How a batch is split over shards, and shards over processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import UserError
from perdure.ranks.shards import bounds, check, of_rank


def test_ten_over_four() -> None:
    assert bounds(10, 4) == [(0, 3), (3, 6), (6, 8), (8, 10)]
    assert bounds(2, 4) == [(0, 1), (1, 2), (2, 2), (2, 2)]


@given(n=st.integers(0, 10_000), shards=st.integers(1, 300))
def test_every_row_is_in_one_shard_and_none_is_much_larger(n: int, shards: int) -> None:
    cuts = bounds(n, shards)
    assert [row for start, stop in cuts for row in range(start, stop)] == list(range(n))
    sizes = [stop - start for start, stop in cuts]
    assert len(sizes) == shards
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


@given(size=st.integers(1, 40), each=st.integers(1, 10))
def test_every_shard_is_run_by_one_rank_in_order(size: int, each: int) -> None:
    shards = size * each
    assert [s for rank in range(size) for s in of_rank(rank, size, shards)] == list(range(shards))
    assert {len(of_rank(rank, size, shards)) for rank in range(size)} == {each}
    check(shards, size)


@given(shards=st.integers(1, 60), size=st.integers(2, 60))
def test_what_cannot_be_shared_is_refused_with_what_can(shards: int, size: int) -> None:
    if shards % size == 0:
        return
    with pytest.raises(UserError) as caught:
        check(shards, size)
    words = str(caught.value).split("start ")[1].split(" of them")[0]
    assert [int(n) for n in words.split(" or ")] == [
        n for n in range(1, shards + 1) if shards % n == 0
    ]
