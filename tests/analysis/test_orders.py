"""Easy and hard class orders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.analysis.orders import between_tasks, class_similarity, extremes


def test_similarity_is_the_cosine_of_centered_means() -> None:
    means = np.array([[1.0, 1.0], [3.0, 1.0], [2.0, 4.0]])
    found = class_similarity(means)
    a, b = means[0] - [2, 2], means[1] - [2, 2]
    assert found[0, 1] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.allclose(np.diag(found), 1)


def test_a_class_of_no_direction_is_like_none() -> None:
    means = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert class_similarity(means)[0].tolist() == [0, 0, 0]


def test_similarity_between_tasks_by_hand() -> None:
    similarity = np.array(
        [[1, 0.5, 0.1, 0.2], [0.5, 1, 0.3, 0.4], [0.1, 0.3, 1, 0.9], [0.2, 0.4, 0.9, 1]]
    )
    assert between_tasks(similarity, [0, 1, 2, 3], [2, 2]) == pytest.approx(
        (0.1 + 0.2 + 0.3 + 0.4) / 4
    )
    assert between_tasks(similarity, [0, 2, 1, 3], [2, 2]) == pytest.approx(
        (0.5 + 0.2 + 0.3 + 0.9) / 4
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_search_finds_the_extremes_of_all_orders(seed: int) -> None:
    means = np.random.default_rng(seed).normal(size=(6, 4))
    sizes = [2, 2, 2]
    found = extremes(means, sizes, n_random=50)
    similarity = class_similarity(means)
    every = [between_tasks(similarity, order, sizes) for order in permutations(range(6))]
    spread = max(every) - min(every)
    easy, hard = found.similarity
    assert sorted(found.easy) == sorted(found.hard) == list(range(6))
    assert easy <= max(every) + 1e-12
    assert hard >= min(every) - 1e-12
    # A local search, which may miss an end; of 1,500 such cases it missed none.
    assert easy >= max(every) - 0.1 * spread
    assert hard <= min(every) + 0.1 * spread
    assert len(found.random) == 50


def test_unequal_tasks_keep_their_sizes() -> None:
    means = np.eye(7) + 0.1 * np.random.default_rng(0).normal(size=(7, 7))
    found = extremes(means, [4, 1, 2], n_random=5)
    assert len(found.easy) == len(set(found.easy)) == 7
