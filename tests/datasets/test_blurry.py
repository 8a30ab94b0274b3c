"""Blurry tasks: every example once, disjoint classes in one task, a share of the others in all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.datasets.arrays import Arrays
from perdure.datasets.blurry import Blurry
from perdure.errors import UserError

ratio = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])


@settings(deadline=None, max_examples=40)
@given(
    n_tasks=st.integers(1, 10),
    disjoint=ratio,
    blurry=ratio,
    stochastic=st.booleans(),
    order=st.none() | st.just("random"),
    seed=st.integers(0, 10**6),
)
def test_every_example_is_in_one_task_and_disjoint_classes_are_whole(
    tiny: Arrays, n_tasks: int, disjoint: float, blurry: float, stochastic: bool,
    order: Any, seed: int,
) -> None:  # fmt: skip
    try:
        made = Blurry(
            tiny, n_tasks, seed, 0.0, order, disjoint_ratio=disjoint, blurry_ratio=blurry,
            stochastic=stochastic,
        )  # fmt: skip
        main = made.main_classes
    except UserError as error:  # as many tasks as classes are hardly ever drawn
        if not (stochastic and n_tasks > 5 and "too few to be drawn" in str(error)):
            raise
        return
    splits = [made.train(task) for task in range(n_tasks)]
    assert sum(map(len, splits)) == 600 == sum(map(made.n_train, range(n_tasks)))
    seen = {x.numpy().tobytes() for split in splits for x in split.x}
    assert len(seen) == len({x.numpy().tobytes() for x in tiny.train.x})
    assert sorted(label for classes in main for label in classes) == list(range(10))
    n_disjoint = round(disjoint * 10)
    for task, split in enumerate(splits):
        counts = torch.bincount(split.y, minlength=10).tolist()
        assert made.classes(task) == [c for c in range(10) if counts[c]]
        for c in range(n_disjoint):
            assert counts[c] == (60 if c in main[task] else 0)
        for c in range(n_disjoint, 10):
            stays = 60 - min(int(blurry * 60), 59)
            assert (counts[c] >= stays) if c in main[task] else (counts[c] <= 60 - stays)
        dealt = sum(counts) - sum(
            60 if c < n_disjoint else 60 - min(int(blurry * 60), 59) for c in main[task]
        )
        pool = (10 - n_disjoint) * min(int(blurry * 60), 59)
        assert dealt in (pool // n_tasks, pool // n_tasks + 1)
        held = made.evaluation(task)
        assert set(held.y.tolist()) == set(main[task])
        assert len(held) == 20 * len(main[task]) == made.n_evaluation(task)
    assert made.seen(n_tasks - 1) == range(10)


def test_equal_tasks_have_equally_many_classes(tiny: Arrays) -> None:
    assert [list(c) for c in Blurry(tiny, 5).main_classes] == [[c, c + 5] for c in range(5)]
    # 3 disjoint and 7 blurry ones over 5 tasks.
    sizes = [len(c) for c in Blurry(tiny, 5, disjoint_ratio=0.3).main_classes]
    assert sizes == [2, 2, 2, 2, 2]


def test_stochastic_tasks_differ_by_seed(tiny: Arrays) -> None:
    drawn = {
        tuple(map(tuple, Blurry(tiny, 3, seed, stochastic=True).main_classes)) for seed in range(20)
    }
    assert len(drawn) > 10


def test_the_examples_dealt_are_drawn_from_the_seed_alone(tiny: Arrays) -> None:
    def made(seed: int) -> list[int]:
        return [hash(Blurry(tiny, 5, seed).train(t).x.numpy().tobytes()) for t in range(5)]

    first = made(1)
    torch.manual_seed(5)
    assert made(1) == first
    assert made(2) != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disjoint_ratio": 1.5}, r"dataset\.scenario\.disjoint_ratio=1\.5: must be a fraction"),
        ({"blurry_ratio": -0.1}, r"dataset\.scenario\.blurry_ratio=-0\.1"),
        ({"n_tasks": 11}, r"dataset\.n_tasks=11: there are 10 classes"),
    ],
    ids=["disjoint", "blurry", "tasks"],
)
def test_mistakes_are_named_by_their_key(
    tiny: Arrays, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Blurry(tiny, **{"n_tasks": 5, **options})
