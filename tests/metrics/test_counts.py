"""The counts of a run: the metrics are those of `functional` and of torchmetrics, to the bit.

What an evaluation costs is counted in bytecode instructions, without a clock.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.metrics import functional
from perdure.metrics.continual import ContinualMetrics
from perdure.metrics.counts import AccuracyCounts

NAMES = ("class_il", "task_il")
Evaluation = tuple[int, bool, list[int], list[int]]
"""trained, boundary, total, correct."""


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, list[Evaluation]]:
    """Up to five tasks, evaluated within and at their ends, the untrained network too or not."""
    n_tasks = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(1, 30), min_size=n_tasks, max_size=n_tasks))
    future = draw(st.booleans())
    places = [(-1, True)] if future else []
    for task in range(draw(st.integers(1, n_tasks))):
        places += [(task, False)] * draw(st.integers(0, 2)) + [(task, True)]
    found = []
    for trained, boundary in places:
        total = sizes if future else sizes[: trained + 1]
        found.append((trained, boundary, total, [draw(st.integers(0, n)) for n in total]))
    return n_tasks, found


def counted(n_tasks: int, evaluations: list[Evaluation]) -> AccuracyCounts:
    counts = AccuracyCounts(NAMES, n_tasks)
    for trained, boundary, total, correct in evaluations:
        both = {"class_il": correct, "task_il": [n - c for n, c in zip(total, correct)]}  # noqa: B905
        counts.add(both, total, trained, boundary)
    return counts


def everything(counts: AccuracyCounts) -> Any:
    return counts.metrics(), counts.matrix(), len(counts)


@settings(max_examples=60, deadline=None)
@given(runs())
def test_the_metrics_are_those_of_torchmetrics_to_the_bit(run: Any) -> None:
    n_tasks, evaluations = run
    counts, metrics = counted(n_tasks, evaluations), ContinualMetrics(n_tasks)
    for number, (trained, boundary, total, correct) in enumerate(evaluations):
        for task, (c, n) in enumerate(zip(correct, total, strict=True)):
            where = {"evaluation": number, "trained": trained, "boundary": boundary}
            metrics.add_counts(c, n, task=task, **where)
    computed = metrics.compute()
    for name, values in counts.metrics().items():
        wanted = computed[name].item()
        assert values["class_il"] == (None if math.isnan(wanted) else wanted), name
    assert counts.matrix()["class_il"] == metrics.matrix()


@settings(max_examples=60, deadline=None)
@given(runs(), st.data())
def test_a_state_continues_where_it_was_taken(run: Any, data: st.DataObject) -> None:
    n_tasks, evaluations = run
    at = data.draw(st.integers(0, len(evaluations)))
    file = io.BytesIO()
    torch.save(counted(n_tasks, evaluations[:at]).state_dict(), file)
    file.seek(0)
    resumed = AccuracyCounts(NAMES, n_tasks)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    rest = counted(n_tasks, evaluations)
    for trained, boundary, total, correct in evaluations[at:]:
        both = {"class_il": correct, "task_il": [n - c for n, c in zip(total, correct)]}  # noqa: B905
        resumed.add(both, total, trained, boundary)
    assert everything(resumed) == everything(rest)


def test_a_task_without_an_evaluation_is_a_row_of_none_and_undefines_what_needs_it() -> None:
    counts = AccuracyCounts(("domain_il",), 4)
    rows = {0: [9], 1: None, 2: [5, 6, 7], 3: [4, 8, 6, 9]}
    for task, correct in rows.items():
        counts.add({"domain_il": correct or ()}, [10] * len(correct or ()), task, True)
        if task == 1:
            assert counts.metrics()["average_accuracy"] == {"domain_il": None}
    assert counts.matrix()["domain_il"] == [
        [0.9],
        [None, None],
        [0.5, 0.6, 0.7],
        [0.4, 0.8, 0.6, 0.9],
    ]
    values = {key: value["domain_il"] for key, value in counts.metrics().items()}
    defined = {key for key, value in values.items() if value is not None}
    assert defined == {
            "average_accuracy", "average_accuracy_over_examples", "average_anytime_accuracy",
        }  # fmt: skip
    matrix = [[0.9], [math.nan] * 2, [0.5, 0.6, 0.7], [0.4, 0.8, 0.6, 0.9]]
    assert values["forgetting"] is functional.forgetting(matrix)
    assert values["average_accuracy"] == functional.average_accuracy(matrix)


@pytest.mark.parametrize(
    ("correct", "total", "trained", "sentence"),
    [
        ([1], [2], 3, "no task 3"),
        ([1] * 4, [2] * 4, 2, "no task 2 or 3"),
        ([3], [2], 1, "cannot be"),
        ([0], [0], 1, "cannot be"),
        ([1], [2], 0, "task 0 ends after task 0 did"),
    ],
    ids=["task", "tasks", "more", "no examples", "twice"],
)
def test_counts_that_cannot_be(
    correct: list[int], total: list[int], trained: int, sentence: str
) -> None:
    counts = AccuracyCounts(("domain_il",), 3)
    counts.add({"domain_il": [1]}, [2], 0, True)
    with pytest.raises(ValueError, match=sentence):
        counts.add({"domain_il": correct}, total, trained, True)


class TestState:
    def test_of_other_accuracies(self) -> None:
        state = counted(3, []).state_dict()
        with pytest.raises(ValueError, match="counts of class_il, task_il"):
            AccuracyCounts(("domain_il",), 3).load_state_dict(state)

    def test_with_counts_of_no_evaluation(self) -> None:
        state = counted(3, [(0, True, [5], [2])]).state_dict()
        state["evaluations"] = state["evaluations"][:0]
        with pytest.raises(ValueError, match="1 counts for 0"):
            AccuracyCounts(NAMES, 3).load_state_dict(state)

    def test_of_a_benchmark_with_more_tasks_loses_what_is_beyond_them(self) -> None:
        counts = AccuracyCounts(NAMES, 2)
        counts.load_state_dict(counted(3, [(0, True, [5, 4, 3], [2, 1, 0])]).state_dict())
        assert counts.matrix()["class_il"] == [[2 / 5]]
        assert counts.state_dict()["total"].tolist() == [5, 4]


# --- cost -----------------------------------------------------------------------------------------


def instructions(work: Callable[[], Any]) -> int:
    """Bytecode instructions that `work` executes."""
    n = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal n
        frame.f_trace_opcodes = True
        n += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return n


def after(n_tasks: int) -> AccuracyCounts:
    """The counts of a run but for its last task."""
    counts = AccuracyCounts(("class_il",), n_tasks)
    for task in range(n_tasks - 1):
        counts.add({"class_il": [3] * (task + 1)}, [10] * (task + 1), task, True)
    return counts


@pytest.mark.parametrize("n_tasks", [5, 50, 200])
def test_an_evaluation_and_the_metrics_are_linear_in_the_tasks(n_tasks: int) -> None:
    counts = after(n_tasks)
    row = {"class_il": [3] * n_tasks}
    added = instructions(lambda: counts.add(row, [10] * n_tasks, n_tasks - 1, True))
    read = instructions(lambda: (counts.metrics(), counts.matrix()))
    assert 20 * n_tasks < added < 400 * n_tasks + 1000  # the first: the test's own test
    assert read < 300 * n_tasks + 1500


@pytest.mark.parametrize("n_tasks", [5, 50, 200])
def test_a_count_is_held_and_saved_once(n_tasks: int) -> None:
    counts = after(n_tasks)
    entries, evaluations = n_tasks * (n_tasks - 1) // 2, n_tasks - 1
    assert counts.n_bytes == 4 * (2 * entries + 3 * evaluations)
    state = counts.state_dict()
    tensors = (state["evaluations"], state["total"], *state["correct"].values())
    assert sum(t.untyped_storage().nbytes() for t in tensors) == counts.n_bytes
