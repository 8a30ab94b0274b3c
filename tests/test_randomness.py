"""A stream's numbers depend on (seed, purpose, position) and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.randomness import Streams

PURPOSES = ("order", "replay", "remember", "augmentation")

small = st.integers(0, 3) | st.integers(0, 2**31)
places = st.tuples(
    st.sampled_from(PURPOSES),
    st.fixed_dictionaries({"task": small, "epoch": small, "step": small, "part": small}),
)


def numbers(streams: Streams, purpose: str, at: dict[str, int], n: int = 8) -> list[int]:
    """`n` raw 64-bit outputs."""
    bits = streams.numpy(purpose, **at).bit_generator
    return [int(v) for v in bits.random_raw(n)]


@settings(deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    requested=st.lists(places, min_size=1, max_size=6),
    drawn=st.lists(st.tuples(places, st.integers(0, 9)), max_size=6),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_position_gives_the_same_numbers_whatever_was_drawn_before(
    seed: int,
    requested: list[tuple[str, dict[str, int]]],
    drawn: list[tuple[tuple[str, dict[str, int]], int]],
    shuffle: random.Random,
) -> None:
    alone = [numbers(Streams(seed), *place) for place in requested]
    used = Streams(seed)
    for (purpose, at), n in drawn:
        generator = used.numpy(purpose, **at)
        generator.random(n)
        generator.integers(0, 7, n, dtype=np.uint32)  # leaves half a word in the generator
    order = list(range(len(requested)))
    shuffle.shuffle(order)
    for i in order:
        assert numbers(used, *requested[i]) == alone[i]


def test_every_kind_of_draw_starts_afresh() -> None:
    """Draws that buffer half-used words leave nothing behind for the next position."""
    streams = Streams(5)
    for n in (1, 3):
        streams.numpy("order", step=1).integers(0, 9, n, dtype=np.uint32)
        odd = streams.numpy("order", step=2).integers(0, 2**32, 5, dtype=np.uint32)
        fresh = Streams(5).numpy("order", step=2).integers(0, 2**32, 5, dtype=np.uint32)
        assert odd.tolist() == fresh.tolist()


@settings(deadline=None)
@given(st.integers(0, 99), places, places)
def test_different_places_share_no_numbers(
    seed: int, one: tuple[str, dict[str, int]], other: tuple[str, dict[str, int]]
) -> None:
    streams = Streams(seed)
    a, b = (set(numbers(streams, *place, n=64)) for place in (one, other))
    assert a == b if one == other else not a & b


@pytest.mark.parametrize("axis", ["task", "epoch", "step", "part"])
def test_neighbours_do_not_overlap(axis: str) -> None:
    """The end of one position's numbers is not the start of the next one's."""
    streams = Streams(0)
    everything = [v for i in range(50) for v in numbers(streams, "order", {axis: i}, 1000)]
    assert len(set(everything)) == 50_000


def test_seeds_and_purposes_make_different_streams() -> None:
    firsts = [numbers(Streams(seed), p, {})[0] for seed in range(-50, 50) for p in PURPOSES]
    assert len(set(firsts)) == len(firsts)


def test_numbers_stay_what_they_are() -> None:
    """A change here makes every published run another run: Philox 4x64 of numpy, keyed by
    BLAKE2b of the purpose, at counter (0, step, task · 2^32 + epoch, part)."""
    assert numbers(Streams(0), "order", {}, 2) == [
        11068518877910798094,
        5933696188695482911,
    ]
    at = {"task": 3, "epoch": 2, "step": 1, "part": 4}
    key = np.frombuffer(Streams(7)._digest("replay"), dtype=np.uint64)
    counter = np.array([0, 1, (3 << 32) + 2, 4], dtype=np.uint64)
    direct = np.random.Philox(key=key, counter=counter)
    assert numbers(Streams(7), "replay", at) == [int(v) for v in direct.random_raw(8)]


def torch_numbers(streams: Streams, **at: int) -> list[float]:
    streams.seed_torch("step", **at)
    return torch.rand(4).tolist()


def test_torch_is_seeded_from_the_position_alone() -> None:
    streams = Streams(3)
    expected = torch_numbers(streams, task=1, epoch=2, step=3)
    torch.rand(17)
    streams.numpy("step", task=1).random(5)
    assert torch_numbers(streams, task=1, epoch=2, step=3) == expected
    assert torch_numbers(Streams(3), task=1, epoch=2, step=3) == expected
    others = [
        torch_numbers(streams, **at)
        for at in ({"task": 1}, {"epoch": 1}, {"step": 1}, {"part": 1}, {})
    ]
    assert len({tuple(v) for v in [*others, expected, torch_numbers(Streams(4))]}) == 7


def test_global_generators_are_left_alone() -> None:
    """Neither numpy's nor Python's moves, and what they do elsewhere does not matter."""
    np.random.seed(1)
    random.seed(1)
    before = (np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate())  # type: ignore[index]
    streams = Streams(0)
    first = streams.numpy("order").permutation(100).tolist()
    streams.seed_torch("step")
    after = (np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate())  # type: ignore[index]
    assert before == after
    np.random.seed(2)
    np.random.rand(1000)
    assert streams.numpy("order").permutation(100).tolist() == first


def test_numpy_streams_leave_torch_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Streams(0).numpy("order").random(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_are_uniform_over_positions() -> None:
    """The first number of 10,000 consecutive steps: mean ½, variance 1/12, no serial correlation.

    Bounds are four standard errors: 1/√(12 n), 1/√(180 n), 1/√n.
    """
    streams, n = Streams(0), 10_000
    u = np.array([streams.numpy("replay", step=step).random() for step in range(n)])
    assert abs(u.mean() - 0.5) < 4 / (12 * n) ** 0.5
    assert abs(u.var() - 1 / 12) < 4 / (180 * n) ** 0.5
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / n**0.5
