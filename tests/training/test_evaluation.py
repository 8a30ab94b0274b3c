"""One pass over the test sets counts accuracies and confusions; the host does not wait in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Scenario
from perdure.datasets.transforms import Scale
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.tracking.files import to_json
from perdure.training.evaluation import Evaluator


class Operators(TorchDispatchMode):
    """The names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def method(tiny: Arrays) -> FineTuning:
    torch.manual_seed(0)
    return FineTuning(MLP((1, 28, 28), 10, (20,)))


def by_hand(method: FineTuning, benchmark: Scenario, tasks: int, seen: int) -> list[list[int]]:
    """True by predicted class of the first tasks' test sets, counted one by one."""
    counts = [[0] * 10 for _ in range(10)]
    for task in range(tasks):
        split = benchmark.evaluation(task)
        with torch.no_grad():
            scores: Tensor = method(Scale()(split.x, None))[:, :seen]
        for true, predicted in zip(split.y.tolist(), scores.argmax(1).tolist(), strict=True):
            counts[true][predicted] += 1
    return counts


@pytest.mark.parametrize(
    ("scenario", "seen"), [(ClassIncremental, 6), (PermutedPixels, 10)], ids=["class", "domain"]
)
def test_confusions_are_those_counted_one_by_one(
    method: FineTuning, tiny: Arrays, scenario: type[Scenario], seen: int
) -> None:
    benchmark = scenario(tiny, 5, seed=1)
    evaluator = Evaluator(method, benchmark, Scale(), 16)
    counts = evaluator.count(range(5), range(seen), range(3)).on_host()
    assert counts.confusion is not None
    whole = by_hand(method, benchmark, 3, seen)
    assert counts.confusion.tolist() == [row[:seen] for row in whole[:seen]]
    assert counts.classes == tuple(map(str, range(seen)))
    first = next(iter(counts.correct.values()))
    assert int(counts.confusion.diagonal().sum()) == int(first[:3].sum())
    assert counts.total == [len(benchmark.evaluation(task)) for task in range(5)]
    assert evaluator.count(range(5), range(seen)).confusion is None


def test_one_forward_pass_and_nothing_that_waits(method: FineTuning, tiny: Arrays) -> None:
    evaluator = Evaluator(method, ClassIncremental(tiny, 5), Scale(), 16)
    evaluator.count(range(5), range(10))  # which examples a task has is found out once
    for confused in (range(0), range(5)):
        with Operators() as operators:
            evaluator.count(range(5), range(10), confused)
        # 40 images a task are three batches; the network has two layers.
        assert operators.names.count("addmm") == 2 * 5 * 3
        waiting = {"_local_scalar_dense", "item", "nonzero", "bincount"}
        assert not waiting & set(operators.names)
    with Operators() as operators:  # the test's own test
        torch.ones(1).sum().item()
    assert "_local_scalar_dense" in operators.names


def test_results_hold_the_newest_evaluation_of_a_task_s_end(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    trainer = make_trainer(recorders=[listener], evaluate_future=True, stop_after=2)
    results = trainer.fit()
    assert json.loads(to_json(results)) == results
    confusion, matrix = results["confusion"], results["accuracy_matrix"]["class_il"][-1]
    assert confusion["after_task"] == 1
    # 10 classes in 3 tasks: 4 and 3 are seen.
    assert confusion["classes"] == list(map(str, range(7)))
    total = [sum(row) for row in confusion["counts"]]
    assert [len(row) for row in confusion["counts"]] == [7] * 7
    for classes, accuracy in ((range(4), matrix[0]), (range(4, 7), matrix[1])):
        correct = sum(confusion["counts"][c][c] for c in classes)
        assert correct / sum(total[c] for c in classes) == accuracy
    found = results["per_class_accuracy"]
    assert found["5"] == confusion["counts"][5][5] / total[5]
    assert list(found) == confusion["classes"]


def test_before_the_first_task_s_end_there_are_none(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    assert trainer.state.summary()["confusion"] is None
    assert trainer.state.summary()["per_class_accuracy"] is None


class TestEveryKthTask:
    """`training.evaluate_every_task=k`."""

    @pytest.fixture
    def five(self, few: Arrays) -> Scenario:
        return ClassIncremental(few, 5, seed=3)

    def test_the_kth_ends_and_the_last_are_evaluated(
        self, make_trainer: MakeTrainer, five: Scenario
    ) -> None:
        whole = make_trainer(benchmark=five, iterations=20)
        wanted = whole.fit()
        listener = Listener()
        some = make_trainer(
            benchmark=five, iterations=20, evaluate_every_task=2, recorders=[listener]
        )
        found = some.fit()
        assert [e.task for e in listener.of(events.Evaluation)] == [1, 3, 4]
        for name, rows in found["accuracy_matrix"].items():
            all_rows = wanted["accuracy_matrix"][name]
            for task, row in enumerate(rows):
                assert row == (all_rows[task] if task in (1, 3, 4) else [None] * (task + 1))
        for key in ("average_accuracy", "per_class_accuracy", "confusion"):
            assert found[key] == wanted[key]
        for key in ("forgetting", "backward_transfer", "min_accuracy", "worst_case_accuracy"):
            assert found[key] == {"class_il": None, "task_il": None}
        ends = [e.results for e in listener.of(events.TaskEnd)]
        means = [end["average_accuracy"]["class_il"] is not None for end in ends]
        assert means == [False, True, False, True, True]
        assert ends[2]["confusion"]["after_task"] == 1
        for a, b in zip(whole.method.parameters(), some.method.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_the_last_task_of_those_that_are_trained(
        self, make_trainer: MakeTrainer, five: Scenario
    ) -> None:
        results = make_trainer(benchmark=five, stop_after=2, evaluate_every_task=9).fit()
        rows = results["accuracy_matrix"]["class_il"]
        assert rows[0] == [None]
        assert None not in rows[1]

    def test_joint_training_is_evaluated(self, make_trainer: MakeTrainer) -> None:
        results = make_trainer(FineTuning, mode="joint", evaluate_every_task=9).fit()
        assert [len(row) for row in results["accuracy_matrix"]["class_il"]] == [3]
