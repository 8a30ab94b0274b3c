"""Numbers drawn for a block of steps: a function of the position, whatever was asked before."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.randomness import Streams
from perdure.training.draws import BLOCK, BlockStream

positions = st.fixed_dictionaries(
    {"task": st.integers(0, 3), "epoch": st.integers(0, 3), "step": st.integers(0, 3 * BLOCK)}
)


@settings(deadline=None)
@given(path=st.lists(positions, min_size=1, max_size=6), n=st.integers(0, 12))
def test_numbers_depend_on_the_position_alone(path: list[dict[str, int]], n: int) -> None:
    """Also those beyond the width, and after any other positions."""
    stream = BlockStream(Streams(5), "replay", 8)
    for at in path:
        found = stream.at(at).random(n)
        fresh = BlockStream(Streams(5), "replay", 8).at(at)
        assert found.tolist() == fresh.random(n).tolist()
        assert found.shape == (n,)
        assert np.all((found >= 0) & (found < 1))


def test_positions_purposes_parts_and_seeds_share_no_numbers() -> None:
    rows = [
        BlockStream(Streams(seed), purpose, 4, part).at({**at, "step": step}).random(n).tolist()
        for seed, purpose, part in itertools.product((0, 1), ("replay", "remember"), (0, 1))
        for at in ({"task": 0, "epoch": 0}, {"task": 1, "epoch": 0}, {"task": 0, "epoch": 1})
        for step in (0, 1, BLOCK - 1, BLOCK)
        for n in (4, 9)
    ]
    numbers = list(itertools.chain.from_iterable(rows))
    assert len(set(numbers)) == len(numbers)


def test_a_shape_is_filled_row_by_row() -> None:
    numbers = BlockStream(Streams(0), "remember", 6).at({"step": 3})
    assert numbers.random((2, 3)).ravel().tolist() == numbers.random(6).tolist()
