"""Exemplar sets chosen at a task's end: herding against brute force, places of the classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.exemplars import Exemplars
from perdure.buffers.herding import Herding, herd
from perdure.buffers.random_exemplars import RandomExemplars
from perdure.errors import UserError

MakeFields = Callable[..., dict[str, Any]]
KINDS = {"herding": Herding, "random": RandomExemplars}


def brute_force(features: Tensor, m: int) -> list[int]:
    """Rebuffi et al. 2017, Alg. 4, one candidate at a time."""
    phi = [row / row.norm() for row in features]
    mean = torch.stack(phi).mean(0)
    chosen: list[int] = []
    for k in range(1, min(m, len(phi)) + 1):
        total = sum([phi[j] for j in chosen], torch.zeros_like(mean))
        left = [i for i in range(len(phi)) if i not in chosen]
        distance = {i: float(((mean - (phi[i] + total) / k) ** 2).sum()) for i in left}
        chosen.append(next(i for i in left if distance[i] <= min(distance.values()) + 1e-12))
    return chosen


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 14), d=st.integers(1, 5), m=st.integers(0, 16))
def test_herding_is_the_paper_s_greedy_choice(seed: int, n: int, d: int, m: int) -> None:
    """Of equal examples the first."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    features = features[torch.randint(0, n, (n,), generator=generator)]  # some are equal
    found = herd(features.numpy(), m).tolist()
    assert len(set(found)) == len(found) == min(m, n)
    assert found == brute_force(features, m)


def test_herding_of_a_mirrored_pair_takes_the_first() -> None:
    """Exact ties: four unit vectors whose mean is zero."""
    square = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert herd(square, 4).tolist() == [0, 1, 2, 3]
    assert herd(np.zeros((3, 2)), 2).tolist() == [0, 1]


def offer_task(
    buffer: Buffer, make_fields: MakeFields, task: int, labels: np.ndarray, first: int
) -> Tensor:
    """A task whose examples are numbered from `first`; returns its features."""
    features = torch.from_numpy(np.random.default_rng(task).normal(size=(len(labels), 4)))
    fields = make_fields(np.arange(first, first + len(labels)), labels)
    generator = np.random.default_rng((task, 1))
    buffer.add(fields, labels, generator, task, {"features": features})
    return features


tasks = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)
"""For each task its classes, with how many examples they have."""


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=100)
@given(size=st.integers(6, 40), stream=tasks, shuffle=st.integers(0, 99))
def test_every_class_seen_has_its_share_and_shrinks_by_the_tail(
    make_fields: MakeFields, kind: str, size: int, stream: list[Any], shuffle: int
) -> None:
    """Never more than the capacity, never none of a class; what stays, stays in its order."""
    buffer, first = Buffer(KINDS[kind](size, 1)), 0
    offered: Counter[int] = Counter()
    before: dict[tuple[int, int], list[int]] = {}
    for task, classes in enumerate(stream):
        labels = np.concatenate([np.full(n, c) for c, n in classes])
        labels = np.random.default_rng(shuffle).permutation(labels)
        offer_task(buffer, make_fields, task, labels, first)
        offered.update(labels.tolist())
        first += len(labels)
        held = buffer.contents()
        counts = Counter(held["y"].tolist())
        assert sum(counts.values()) == len(buffer) <= size
        assert counts.keys() == offered.keys()
        share = size // len(offered)
        left = 0 if kind == "herding" else size % len(offered)
        extra = {c: number < left for number, c in enumerate(sorted(offered))}
        assert all(n <= share + extra[c] for c, n in counts.items())
        new = {c: n for c, n in offered.items() if not any(k == c and t < task for k, t in before)}
        assert all(counts[c] == min(n, share + extra[c]) for c, n in new.items())
        now: dict[tuple[int, int], list[int]] = {}
        columns = (held[key].tolist() for key in ("y", "task", "id"))
        for c, t, number in zip(*columns, strict=True):
            now.setdefault((c, t), []).append(number)
        for group, numbers in now.items():
            if group[1] < task:
                assert numbers == before[group][: len(numbers)]
        before = now


def test_herding_chooses_from_the_features_of_each_class(make_fields: MakeFields) -> None:
    buffer = Buffer(Herding(8, 1))
    labels = np.random.default_rng(5).permutation(np.repeat([3, 7], 20))
    features = offer_task(buffer, make_fields, 0, labels, 0)
    held = buffer.contents()
    for c in (3, 7):
        rows = np.flatnonzero(labels == c)
        expected = rows[brute_force(features[torch.from_numpy(rows)], 4)]
        assert held["id"][held["y"] == c].tolist() == expected.tolist()
    offer_task(buffer, make_fields, 1, np.repeat([0, 1], 9), 100)
    first_two = buffer.contents()["id"][buffer.contents()["y"] == 3].tolist()
    assert first_two == held["id"][held["y"] == 3].tolist()[:2]


def test_a_class_of_several_tasks_keeps_examples_of_each(make_fields: MakeFields) -> None:
    """A domain-incremental benchmark brings all classes in every task."""
    buffer = Buffer(Herding(20, 1))
    for task in range(3):
        offer_task(buffer, make_fields, task, np.repeat([0, 1], 30), 60 * task)
        held = buffer.contents()
        for c in (0, 1):
            counts = held["task"][held["y"] == c].bincount(minlength=3).tolist()
            assert counts == [[10, 0, 0], [5, 5, 0], [3, 3, 4]][task]


def test_random_exemplars_are_uniform(
    make_fields: MakeFields, chi_square_limit: Callable[[int], float]
) -> None:
    """After a shrink too: each of the 10 examples of a class is among its 2 as often."""
    runs, counts = 1500, np.zeros(10)
    for run in range(runs):
        buffer, generator = Buffer(RandomExemplars(4, 1)), np.random.default_rng(run)
        for task in range(2):
            labels = np.full(10, task)
            numbers = np.arange(10 * task, 10 * task + 10)
            buffer.add(make_fields(numbers, labels), labels, generator, task)
        held = buffer.contents()
        np.add.at(counts, held["id"][held["y"] == 0].numpy(), 1)
    p = 0.2
    assert counts.sum() == 2 * runs
    assert ((counts - runs * p) ** 2).sum() / (runs * p * (1 - p)) * 0.9 < chi_square_limit(9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_needs_a_place(make_fields: MakeFields, kind: str) -> None:
    made: type[Exemplars] = KINDS[kind]
    message = r"^buffer\.size=5: must be 10 or more, one place for each of the 10 classes$"
    with pytest.raises(UserError, match=message):
        made(5, 1, n_classes=10)
    with pytest.raises(UserError, match="one place for each of the 6 classes"):
        offer_task(Buffer(made(5, 1)), make_fields, 0, np.arange(6), 0)


def test_what_a_policy_needs_must_be_given(make_fields: MakeFields) -> None:
    labels = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="Herding needs features"):
        Buffer(Herding(5, 1)).add(make_fields([1, 2], labels), labels, np.random.default_rng(0))
