"""Loss-aware reservoirs: who gives way, against weights by hand, in distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from perdure.buffers.base import Buffer
from perdure.buffers.loss_aware import LossAware, LossAwareBalanced, chosen
from perdure.buffers.policy import Offer

Limit = Callable[[int], float]
MakeFields = Callable[..., dict[str, Any]]

LOSSES = np.array([2.0, 0.5, 0.0, 1.0, 3.5, 0.5])
LABELS = np.array([0, 0, 0, 0, 1, 2])


class Fixed:
    """Gives `keep` for acceptance and `pick` for the choice of the victim."""

    def __init__(self, keep: Any, pick: Any) -> None:
        self.values = np.array([np.atleast_1d(keep), np.atleast_1d(pick)], dtype=float)

    def random(self, size: int | tuple[int, ...]) -> np.ndarray:
        assert self.values.shape == size
        return self.values


def full(kind: type[LossAware]) -> LossAware:
    policy = kind(len(LOSSES), 1)
    rows, slots = policy.place(Offer(LABELS, 0, {"losses": LOSSES}), np.random.default_rng(0))
    assert rows == slots == list(range(len(LOSSES)))
    policy.seen = policy.held = len(LOSSES)
    return policy


def victims(policy: LossAware, runs: int) -> np.ndarray:
    """How often each slot is the victim of one accepted example, over `runs` trials."""
    saved, generator = policy.state_dict(), np.random.default_rng(5)
    counts = np.zeros(len(LOSSES))
    for u in generator.random(runs):
        _, (slot,) = policy.place(Offer(np.array([9]), 1, {"losses": np.ones(1)}), Fixed(0, u))
        counts[slot] += 1
        policy.load_state_dict(saved)
    return counts


def expected(kind: type[LossAware]) -> np.ndarray:
    """P(i) in a loop over examples, from the paper's sentence."""
    scores = []
    for i, loss in enumerate(LOSSES):
        count = sum(label == LABELS[i] for label in LABELS)
        counts = sum(sum(other == label for other in LABELS) for label in LABELS)
        alpha = counts / sum(LOSSES)
        scores.append(-loss if kind is LossAware else count - alpha * loss)
    shifted = np.array(scores) - min(scores)
    return np.asarray(shifted / shifted.sum())


@pytest.mark.parametrize("kind", [LossAware, LossAwareBalanced])
def test_victims_are_as_frequent_as_the_paper_says(
    kind: type[LossAware], chi_square_limit: Limit
) -> None:
    runs, p = 8_000, expected(kind)
    counts = victims(full(kind), runs)
    possible = p > 0
    assert counts[~possible].sum() == 0
    statistic = (counts[possible] - runs * p[possible]) ** 2 / (runs * p[possible])
    assert statistic.sum() < chi_square_limit(int(possible.sum()) - 1)


def test_of_equal_losses_one_of_a_large_class_goes_first() -> None:
    policy = LossAwareBalanced(5, 1)
    labels = np.array([0, 0, 0, 1, 1])
    policy.place(Offer(labels, 0, {"losses": np.full(5, 0.7)}), np.random.default_rng(0))
    policy.seen = policy.held = 5
    saved, gone = policy.state_dict(), set[int]()
    for u in np.linspace(0, 0.999, 30):
        policy.load_state_dict(saved)
        gone |= set(policy.place(Offer(labels[:1], 0, {"losses": np.ones(1)}), Fixed(0, u))[1])
    assert gone == {0, 1, 2}


def test_new_losses_of_replayed_examples_count() -> None:
    policy = full(LossAware)
    policy.replayed(np.array([2, 4]), np.array([9.0, 0.0]))
    state = policy.state_dict()
    assert state["losses"].tolist() == [2.0, 0.5, 9.0, 1.0, 0.0, 0.5]
    counts = victims(policy, 400)
    assert counts[2] == 0, "the largest loss stays"
    assert counts[4] > 40, "what had the largest one may go"


@pytest.mark.parametrize("kind", [LossAware, LossAwareBalanced])
def test_an_example_is_accepted_as_in_a_reservoir(
    kind: type[LossAware], chi_square_limit: Limit
) -> None:
    """Number n with probability B / n."""
    size, n, runs = 6, 40, 600
    generator, labels = np.random.default_rng(1), np.arange(40) % 3
    accepted = np.zeros(n)
    for _ in range(runs):
        policy = kind(size, 1)
        for number in range(n):
            info = {"losses": generator.exponential(size=1)}
            offer = Offer(labels[number : number + 1], 0, info)
            placed, _ = policy.place(offer, generator)
            accepted[number] += len(placed)
            policy.seen, policy.held = number + 1, min(size, number + 1)
    assert accepted[:size].tolist() == [runs] * size
    p, counts = size / np.arange(size + 1, n + 1), accepted[size:]
    statistic = ((counts - runs * p) ** 2 / (runs * p * (1 - p))).sum()
    assert statistic < chi_square_limit(n - size)


def test_within_a_batch_examples_come_one_after_another() -> None:
    """The second one meets the memory that the first one left."""
    policy = full(LossAware)
    offer = Offer(np.array([5, 6]), 1, {"losses": np.array([0.0, 1.0])})
    low = [1e-9, 1e-9]
    rows, slots = policy.place(offer, Fixed([0, 0], low))
    assert (rows, slots) == ([1], [0]), "the second one replaced the first"
    policy = full(LossAware)
    offer = Offer(np.array([5, 6]), 1, {"losses": np.array([50.0, 1.0])})
    rows, slots = policy.place(offer, Fixed([0, 0], low))
    assert (rows, slots) == ([0, 1], [0, 1]), "the first one's loss is the largest now"


def test_a_loss_that_is_not_known_counts_as_the_mean(make_fields: MakeFields) -> None:
    before, other = Buffer(LossAware(4, 1)), Buffer(LossAware(6, 1))
    labels = np.zeros(4, dtype=np.int64)
    info = {"losses": np.arange(4.0)}
    before.add(make_fields(np.arange(4), labels), labels, np.random.default_rng(0), info=info)
    other.adopt(before.state_dict(), np.random.default_rng(0))
    assert other.policy.state_dict()["losses"].tolist() == [-1.0] * 4
    labels, info = labels[:2], {"losses": np.array([3.0, 1.0])}
    more = make_fields([7, 8], labels)
    generator = Fixed([0, 0], [0, 0])
    other.add(more, labels, generator, info=info)
    policy = other.policy
    assert isinstance(policy, LossAware)
    seen: list[np.ndarray] = []

    class Watched(LossAware):
        def scores(self, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
            seen.append(losses.copy())
            return super().scores(losses, labels)

    watched = Watched(6, 1)
    watched.load_state_dict(policy.state_dict())
    watched.held, watched.seen = 6, 6
    watched.place(Offer(labels[:1], 0, {"losses": np.zeros(1)}), Fixed(0, 0.5))
    assert seen[0].tolist() == [2.0, 2.0, 2.0, 2.0, 3.0, 1.0]


def test_the_state_is_plain_and_whole() -> None:
    policy = full(LossAwareBalanced)
    policy.replayed(np.array([1]), np.array([0.125]))
    state = policy.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    again = LossAwareBalanced(len(LOSSES), 1)
    again.load_state_dict(state)
    again.held = again.seen = len(LOSSES)
    assert np.array_equal(victims(again, 300), victims(policy, 300))


def test_a_choice_in_proportion_to_weights() -> None:
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    assert [chosen(weights, u) for u in (0.0, 0.2499, 0.25, 0.99)] == [1, 1, 3, 3]
    assert chosen(weights, 1.0) == 3, "a product that rounds up to the sum"
    assert [chosen(np.zeros(4), u) for u in (0.0, 0.26, 0.99)] == [0, 1, 3]
