"""Sizes of tasks and epochs of each: what follows from what is typed, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perdure
from perdure.config.task_sizes import are_epochs, epochs_of, sizes_of
from perdure.config.typed import as_plain, typed
from perdure.config.validation import validate
from perdure.errors import UserError


@given(st.integers(1, 60), st.data())
def test_sizes_are_all_classes_and_as_asked(n_classes: int, data: st.DataObject) -> None:
    n_tasks = data.draw(st.integers(1, n_classes))
    equal = sizes_of(n_classes, n_tasks)
    assert sum(equal) == n_classes
    assert len(equal) == n_tasks
    assert sorted(equal, reverse=True) == list(equal)
    assert equal[0] - equal[-1] <= 1
    assert sizes_of(n_classes, class_sizes=equal) == equal
    if n_tasks == 1:
        assert sizes_of(n_classes, 1, initial_classes=n_classes) == (n_classes,)
        return
    first = data.draw(st.integers(1, n_classes - n_tasks + 1))
    found = sizes_of(n_classes, n_tasks, initial_classes=first)
    assert found == (first, *sizes_of(n_classes - first, n_tasks - 1))


@given(first=st.integers(0, 60), increment=st.integers(1, 20), further=st.integers(1, 20))
def test_an_increment_says_how_many_tasks(first: int, increment: int, further: int) -> None:
    n = first + increment * further
    expected = ((first,) if first else ()) + (increment,) * further
    for n_tasks in (None, len(expected)):
        assert sizes_of(n, n_tasks, None, first or None, increment) == expected
    with pytest.raises(UserError, match=rf"^dataset\.n_tasks={len(expected) + 1}: "):
        sizes_of(n, len(expected) + 1, None, first or None, increment)
    if increment > 1:
        with pytest.raises(UserError, match=r"1 of the \d+ classes are left over"):
            sizes_of(n + 1, None, None, first or None, increment)


@pytest.mark.parametrize(
    ("typed_", "n_tasks"),
    [
        ((), 5),
        (("dataset.class_sizes=[6,2,2]",), 3),
        (("dataset.class_sizes=[6,2,2]", "dataset.n_tasks=3"), 3),
        (("dataset.initial_classes=6", "dataset.increment=2"), None),
        (("dataset.increment=2",), None),
        (("dataset.initial_classes=6",), 5),
        (("dataset.initial_classes=6", "dataset.n_tasks=3"), 3),
        (("debug=fast", "dataset.class_sizes=[6,2,2]"), 3),
        (("dataset=mnist-360",), 1),
        (("scenario=general-continual",), 1),
        (("dataset=mnist-360", "debug=fast"), 1),
    ],
    ids=lambda v: " ".join(v) or "nothing" if isinstance(v, tuple) else "",
)
def test_the_number_of_tasks_follows(typed_: tuple[str, ...], n_tasks: int | None) -> None:
    config = perdure.compose("model=sgd", *typed_)
    validate(config)
    assert as_plain(typed(config))["dataset"]["n_tasks"] == n_tasks


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("dataset.n_tasks=[6,2,2]", r"n_tasks=\[6,2,2\]: must be .*dataset\.class_sizes=\[6,2,2\]"),
        ("+dataset.scenario.first=6", r"scenario\.first=6: is no option.*dataset\.initial_classes"),
        ("+dataset.scenario.sizes=[6,2,2]", r"scenario\.sizes=\[6,2,2\]: .*dataset\.class_sizes"),
        ("dataset.n_tasks=0", r"n_tasks=0: must be 1 or more"),
        ("dataset.n_tasks=2.5", r"n_tasks=2\.5: must be 1 or more"),
        ("dataset.class_sizes=6", r"class_sizes=6: must be a list"),
        ("dataset.class_sizes=[]", r"class_sizes=\[\]: must be a list"),
        ("dataset.class_sizes=[6,0]", r"class_sizes=\[6,0\]: must be a list"),
        ("dataset.class_sizes=[6,2,2] dataset.n_tasks=4", r"n_tasks=4: .* makes 3 tasks"),
        ("dataset.class_sizes=[6,4] dataset.increment=2", r"increment=2 with .* both say"),
        ("dataset.initial_classes=0", r"initial_classes=0: must be an integer"),
        ("dataset.epochs=[3,1]", r"epochs=\[3,1\]: has 2 entries, but there are 5 tasks"),
        ("dataset.epochs=[3,0,1,1,1]", r"epochs=.*: must be an integer, 1 or more, a list"),
        ("dataset.epochs={first: 3}", r"epochs=.*: must be an integer, 1 or more, a list"),
        ("dataset.epochs=soon", r"epochs=soon: must be an integer, 1 or more, a list"),
        ("dataset.epochs=true", r"epochs=True: must be an integer, 1 or more, a list"),
        ("dataset.epochs=[2,1,1,1,1] training=joint", r"epochs=.* with training=joint: a joint"),
        ("dataset.noise.rate=1.5", r"noise\.rate=1\.5: must be a fraction"),
        ("dataset.noise.kind=symmetric", r"noise\.kind=symmetric: give dataset\.noise\.rate"),
        ("dataset.imbalance=2", r"imbalance=2\.0: must be a float above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: str, sentence: str) -> None:
    overrides = words.replace(" dataset", "\ndataset").replace(" training", "\ntraining")
    with pytest.raises(UserError, match=rf"^dataset\.{sentence}"):
        validate(perdure.compose("model=sgd", *overrides.split("\n")))


@pytest.mark.parametrize(
    ("epochs", "each"),
    [(4, [4, 4, 4]), ([3, 1, 2], [3, 1, 2]), ({"first": 160, "rest": 20}, [160, 20, 20])],
    ids=["one", "list", "first-rest"],
)
def test_epochs_of_a_task(epochs: Any, each: list[int]) -> None:
    assert are_epochs(epochs)
    assert [epochs_of(epochs, task) for task in range(3)] == each


def test_typed_epochs_replace_those_of_another_form() -> None:
    for text, value in (
        ("{first: 3, rest: 1}", {"first": 3, "rest": 1}), ("[3,1,1,1,1]", [3, 1, 1, 1, 1]),
    ):  # fmt: skip
        config = perdure.compose("dataset=seq-cifar10", f"dataset.epochs={text}")
        validate(config)
        assert as_plain(typed(config))["dataset"]["epochs"] == value
