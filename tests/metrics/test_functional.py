"""Summaries of an accuracy matrix, against arithmetic written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.metrics import functional as fn

NAN = math.nan
# After task 0, 1, 2 (rows) on task 0, 1, 2 (columns), tasks not yet learned included.
FULL = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.7, 1.0]]
TRIANGLE = [[0.9], [0.6, 0.8], [0.5, 0.7, 1.0]]
INITIAL = [0.1, 0.15, 0.12]
# With evaluations within tasks: two of each task, the second at its end.
STREAM = [[0.7], [0.9], [0.3, 0.5], [0.6, 0.8], [0.4, 0.2, 0.6], [0.5, 0.7, 1.0]]
TRAINED = [0, 0, 1, 1, 2, 2]
ALL = [
    fn.average_accuracy,
    fn.forgetting,
    fn.backward_transfer,
    fn.average_anytime_accuracy,
    fn.min_accuracy,
    fn.worst_case_accuracy,
]
NAMES = [function.__name__ for function in ALL]


@pytest.mark.parametrize(
    "matrix",
    [FULL, TRIANGLE, torch.tensor(FULL, dtype=torch.float64)],
    ids=["full", "triangle", "tensor"],
)
class TestByHand:
    def test_average_accuracy(self, matrix: list[list[float]]) -> None:
        assert fn.average_accuracy(matrix) == pytest.approx((0.5 + 0.7 + 1.0) / 3)

    def test_forgetting(self, matrix: list[list[float]]) -> None:
        # task 0: max(0.9, 0.6) - 0.5 = 0.4; task 1: 0.8 - 0.7 = 0.1
        assert fn.forgetting(matrix) == pytest.approx((0.4 + 0.1) / 2)

    def test_backward_transfer(self, matrix: list[list[float]]) -> None:
        assert fn.backward_transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)

    def test_average_anytime_accuracy(self, matrix: list[list[float]]) -> None:
        expected = (0.9 + (0.6 + 0.8) / 2 + (0.5 + 0.7 + 1.0) / 3) / 3
        assert fn.average_anytime_accuracy(matrix) == pytest.approx(expected)

    def test_min_accuracy(self, matrix: list[list[float]]) -> None:
        # task 0: min(0.6, 0.5); task 1: 0.7 alone, since 0.8 is its own task's end
        assert fn.min_accuracy(matrix) == pytest.approx((0.5 + 0.7) / 2)

    def test_worst_case_accuracy(self, matrix: list[list[float]]) -> None:
        assert fn.worst_case_accuracy(matrix) == pytest.approx(1.0 / 3 + (1 - 1 / 3) * 0.6)


def test_forward_transfer() -> None:
    expected = ((0.2 - 0.15) + (0.3 - 0.12)) / 2
    assert fn.forward_transfer(FULL, INITIAL) == pytest.approx(expected)


def test_forgetting_is_from_the_best_earlier_row_which_need_not_be_the_diagonal() -> None:
    matrix = [[0.6], [0.9, 0.5], [0.7, 0.4, 1.0]]
    assert fn.forgetting(matrix) == pytest.approx(((0.9 - 0.7) + (0.5 - 0.4)) / 2)
    assert fn.backward_transfer(matrix) == pytest.approx(((0.7 - 0.6) + (0.4 - 0.5)) / 2)


def test_forgetting_is_negative_where_later_tasks_help() -> None:
    assert fn.forgetting([[0.4], [0.9, 0.5]]) == pytest.approx(0.4 - 0.9)


def test_accuracy_on_a_task_before_it_is_learned_is_not_forgotten() -> None:
    lucky = [[0.9, 0.99], [0.8, 0.5], [0.7, 0.4, 1.0]]
    assert fn.forgetting(lucky) == pytest.approx(((0.9 - 0.7) + (0.5 - 0.4)) / 2)


def test_evaluations_within_tasks() -> None:
    on_task_1 = (0.3 + 0.5) / 2 + (0.6 + 0.8) / 2
    on_task_2 = (0.4 + 0.2 + 0.6) / 3 + (0.5 + 0.7 + 1.0) / 3
    expected = (0.7 + 0.9 + on_task_1 + on_task_2) / 6
    assert fn.average_anytime_accuracy(STREAM, TRAINED) == pytest.approx(expected)
    # task 0 from its end on: min(0.3, 0.6, 0.4, 0.5); task 1: min(0.2, 0.7), not its own 0.5
    assert fn.min_accuracy(STREAM, TRAINED) == pytest.approx((0.3 + 0.2) / 2)
    expected = 1.0 / 3 + 2 / 3 * (0.3 + 0.2) / 2
    assert fn.worst_case_accuracy(STREAM, TRAINED) == pytest.approx(expected)


def test_worst_case_within_a_task_takes_the_present_accuracy_on_it() -> None:
    # k = 2, t in the middle of task 1: 1/2 0.5 + (1 - 1/2) 0.3
    assert fn.worst_case_accuracy(STREAM[:3], TRAINED[:3]) == pytest.approx(0.5 * 0.5 + 0.5 * 0.3)


def test_accuracy_at_the_end_of_its_own_task_is_no_minimum() -> None:
    assert fn.min_accuracy([[0.3], [0.9, 0.5], [0.8, 0.7, 1.0]]) == pytest.approx((0.8 + 0.7) / 2)


def test_evaluation_that_left_a_task_out_does_not_count_for_its_minimum() -> None:
    assert fn.min_accuracy([[0.9], [NAN, 0.8], [0.5, 0.7, 1.0]]) == pytest.approx((0.5 + 0.7) / 2)


def test_first_task_alone() -> None:
    assert fn.average_accuracy([[0.9]]) == fn.worst_case_accuracy([[0.9]]) == 0.9
    for function in (fn.forgetting, fn.backward_transfer, fn.min_accuracy):
        assert function([[0.9]]) is None
    assert fn.forward_transfer([[0.9]], INITIAL) is None


def test_joint_run_has_an_average_and_no_history() -> None:
    row, joint = [0.9, 0.8, 0.4], [2]
    assert fn.average_accuracy([row], joint) == pytest.approx((0.9 + 0.8 + 0.4) / 3)
    assert fn.average_anytime_accuracy([row], joint) == pytest.approx((0.9 + 0.8 + 0.4) / 3)
    history = (fn.forgetting, fn.backward_transfer, fn.min_accuracy, fn.worst_case_accuracy)
    for function in history:
        assert function([row], joint) is None
    assert fn.forward_transfer([row], INITIAL, joint) is None


@pytest.mark.parametrize("function", ALL, ids=NAMES)
@pytest.mark.parametrize("matrix", [[], [[NAN]], [[NAN], [NAN, 0.8]]], ids=["no", "one", "two"])
def test_none_without_the_accuracies_it_needs(
    function: Callable[..., float | None], matrix: list[list[float]]
) -> None:
    assert function(matrix) is None


@pytest.mark.parametrize("last", [[0.5, NAN], [0.5]], ids=["nan", "short row"])
def test_accuracy_on_the_current_task_is_missed_where_it_enters(last: list[float]) -> None:
    matrix = [[0.9], last]
    for function in (fn.average_accuracy, fn.average_anytime_accuracy, fn.worst_case_accuracy):
        assert function(matrix) is None
    assert fn.forgetting(matrix) == pytest.approx(0.9 - 0.5)
    assert fn.backward_transfer(matrix) == pytest.approx(0.5 - 0.9)
    assert fn.min_accuracy(matrix) == 0.5


def test_forward_transfer_needs_accuracies_on_tasks_to_come() -> None:
    assert fn.forward_transfer(TRIANGLE, INITIAL) is None
    assert fn.forward_transfer(FULL, []) is None
    assert fn.forward_transfer([], INITIAL) is None


@pytest.mark.parametrize("trained", [[0, 1], [-1, 0, 1]], ids=["too few", "before training"])
def test_trained_must_name_a_task_for_each_row(trained: list[int]) -> None:
    with pytest.raises(ValueError, match="one task >= 0 for each of 3 rows"):
        fn.forgetting(FULL, trained)


accuracies = st.integers(0, 1000).map(lambda n: n / 1000)


@st.composite
def matrices(draw: st.DrawFn) -> list[list[float]]:
    tasks = draw(st.integers(2, 6))
    row = st.lists(accuracies, min_size=tasks, max_size=tasks)
    return draw(st.lists(row, min_size=tasks, max_size=tasks))


@given(matrices())
def test_forgetting_is_backward_transfer_reversed_where_the_diagonal_is_best(
    matrix: list[list[float]],
) -> None:
    for row in matrix:
        for j, diagonal in enumerate(matrix[j][j] for j in range(len(matrix))):
            row[j] = min(row[j], diagonal)
    forgetting, transfer = fn.forgetting(matrix), fn.backward_transfer(matrix)
    assert forgetting is not None
    assert transfer is not None
    assert forgetting == pytest.approx(-transfer)


@given(matrices())
def test_inequalities(matrix: list[list[float]]) -> None:
    forgetting, transfer = fn.forgetting(matrix), fn.backward_transfer(matrix)
    worst, average = fn.worst_case_accuracy(matrix), fn.average_accuracy(matrix)
    assert forgetting is not None
    assert transfer is not None
    assert worst is not None
    assert average is not None
    assert forgetting >= -transfer - 1e-12
    assert worst <= average + 1e-12


@given(matrices(), st.randoms(use_true_random=False))
def test_order_does_not_matter(matrix: list[list[float]], random: Random) -> None:
    last = len(matrix) - 1
    shuffled = random.sample(range(last), last)
    rows, trained = [matrix[i] for i in shuffled], shuffled
    for function in (fn.average_anytime_accuracy, fn.min_accuracy, fn.worst_case_accuracy):
        assert function([*rows, matrix[last]], [*trained, last]) == function(matrix)
    tasks = [matrix[last][i] for i in [*shuffled, last]]
    assert fn.average_accuracy([*matrix[:-1], tasks]) == fn.average_accuracy(matrix)


@given(matrices(), matrices())
def test_tasks_to_come_change_nothing_but_forward_transfer(
    matrix: list[list[float]], other: list[list[float]]
) -> None:
    triangle = [row[: i + 1] for i, row in enumerate(matrix)]
    for function in ALL:
        assert function(matrix) == function(triangle)


def test_average_over_examples_weighs_tasks_by_their_size() -> None:
    assert fn.average_accuracy_over_examples(TRIANGLE, [10, 30, 60]) == pytest.approx(
        (0.5 * 10 + 0.7 * 30 + 1.0 * 60) / 100
    )
    # Tasks of the future do not count, nor do their examples.
    assert fn.average_accuracy_over_examples(FULL[:2], [10, 30, 60]) == pytest.approx(
        (0.6 * 10 + 0.8 * 30) / 40
    )
    assert fn.average_accuracy_over_examples(FULL, [5, 5, 5]) == pytest.approx(
        fn.average_accuracy(FULL)
    )
    assert fn.average_accuracy_over_examples(FULL, [5, 5]) is None
    assert fn.average_accuracy_over_examples([[0.9], [NAN, 0.8]], [1, 2]) is None
    assert fn.average_accuracy_over_examples([], []) is None
