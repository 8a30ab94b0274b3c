"""GSS-Greedy: who may replace whom, against the paper's algorithm, in distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from perdure.buffers.gradient_selection import GradientSelection
from perdure.buffers.policy import Offer
from perdure.errors import UserError

Limit = Callable[[int], float]


class Vectors:
    """Gradients as given: those of the offered examples, and of each slot."""

    def __init__(self, offered: np.ndarray, held: np.ndarray) -> None:
        self.offered = offered
        self.held = held
        self.asked: list[np.ndarray] = []

    def cosines(self, slots: np.ndarray) -> np.ndarray:
        self.asked.append(slots)
        a, b = self.offered, self.held[slots]
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        return np.asarray(a @ b.T / lengths)


def full(scores: list[float], comparisons: int = 10) -> GradientSelection:
    policy = GradientSelection(len(scores), 1, comparisons)
    policy.load_state_dict({"scores": torch.tensor(scores, dtype=torch.float64)})
    policy.held = policy.seen = len(scores)
    return policy


def offer(offered: Any, held: Any) -> Offer:
    gradients = Vectors(np.atleast_2d(offered).astype(float), np.atleast_2d(held).astype(float))
    return Offer(np.zeros(len(gradients.offered), dtype=np.int64), 0, {"gradients": gradients})


def test_the_first_examples_have_the_paper_s_score() -> None:
    policy = GradientSelection(5, 1, 10)
    assert policy.place(Offer(np.zeros(3, dtype=int)), np.random.default_rng(0)) == (
        [0, 1, 2], [0, 1, 2],
    )  # fmt: skip
    policy.held = 3
    assert policy.state_dict()["scores"].tolist() == [0.1] * 3


def test_later_ones_have_the_largest_cosine_and_one() -> None:
    policy = GradientSelection(5, 1, 10)
    policy.place(Offer(np.zeros(3, dtype=int)), np.random.default_rng(0))
    policy.held = 3
    held = [[1, 0], [0, 1], [-1, 0]]
    policy.place(offer([[1, 1], [0, -2]], held), np.random.default_rng(0))
    policy.held = 5
    expected = [0.1, 0.1, 0.1, 1 + 0.5**0.5, 1.0]
    np.testing.assert_allclose(policy.state_dict()["scores"], expected)


@pytest.mark.parametrize(
    "new", [[3, 0], [1, 2], [0, 1]], ids=["identical", "similar", "orthogonal"]
)
def test_what_points_where_the_memory_does_never_replaces_anything(new: list[int]) -> None:
    """c ≥ 1: the paper compares a cosine of at least 0 with nothing."""
    policy, generator = full([0.5, 1.0, 2.0]), np.random.default_rng(0)
    for _ in range(200):
        assert policy.place(offer(new, [[1, 0]] * 3), generator) == ([], [])
    assert policy.state_dict()["scores"].tolist() == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("new", [[-1, 0], [-0.6, 0.8]], ids=["opposite", "oblique"])
def test_what_points_elsewhere_replaces_as_often_as_the_paper_says(
    new: list[float], chi_square_limit: Limit
) -> None:
    """Candidate i with C_i / Σ C, then replaced with C_i / (C_i + c)."""
    scores, runs = [0.5, 1.0, 2.0, 0.0], 6_000
    c = 1 + new[0]
    policy, saved = full(scores), torch.tensor(scores, dtype=torch.float64)
    generator, counts = np.random.default_rng(3), np.zeros(5)
    for _ in range(runs):
        rows, slots = policy.place(offer(new, [[1, 0]] * 4), generator)
        counts[slots[0] if rows else 4] += 1
        if rows:
            found = policy.state_dict()["scores"][slots[0]]
            assert found == pytest.approx(c)
        policy.load_state_dict({"scores": saved})
    p = [s / sum(scores) * s / (s + c) for s in scores[:3]]
    expected = np.array([*p, 1 - sum(p)]) * runs
    counts = counts[[0, 1, 2, 4]] if counts[3] == 0 else counts
    assert len(counts) == 4, "a score of 0 is never a candidate"
    likely = expected > 1e-6 * runs
    assert counts[~likely].sum() == 0
    statistic = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert statistic < chi_square_limit(int(likely.sum()) - 1)


def test_it_is_compared_with_so_many_random_stored_examples(chi_square_limit: Limit) -> None:
    policy, generator, counts, runs = (
        full([0.1] * 8, 3),
        np.random.default_rng(0),
        np.zeros(8),
        1500,
    )
    for _ in range(runs):
        each = offer([[1, 0]], np.ones((8, 2)))
        policy.place(each, generator)
        (slots,) = each.info["gradients"].asked
        assert len(set(slots.tolist())) == 3
        counts[slots] += 1
    p = 3 / 8
    statistic = ((counts - runs * p) ** 2 / (runs * p * (1 - p))).sum() * 7 / 8
    assert statistic < chi_square_limit(7)


def test_two_of_one_offer_that_take_one_slot_leave_the_later() -> None:
    policy = full([1.0])
    rows, slots = policy.place(offer([[-1, 0], [-1, 0]], [[1, 0]]), np.random.default_rng(0))
    assert (rows, slots) == ([0], [0]), "the second one met a score of 0, which never yields"


def test_no_comparison_makes_no_sense() -> None:
    with pytest.raises(UserError, match=r"^buffer\.comparisons=0: must be 1 or more$"):
        GradientSelection(5, 1, 0)
