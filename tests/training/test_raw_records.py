"""Raw records hold what each example was taken for, as counted one by one, and wait for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kit import Listener, MakeTrainer

from perdure.backbones.mlp import MLP
from perdure.config.schema import EvaluationConfig
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Scenario
from perdure.datasets.transforms import Scale
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.training.evaluation import Evaluator
from perdure.training.raw_records import RawRecords

PLENTY = 10**9


@pytest.fixture(scope="module")
def method(tiny: Arrays) -> FineTuning:
    torch.manual_seed(0)
    return FineTuning(MLP((1, 28, 28), 10, (20,)))


def recorded(
    method: FineTuning, benchmark: Scenario, seen: int, n_tasks: int, limit: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    evaluator = Evaluator(method, benchmark, Scale(), 16)
    record = RawRecords(evaluator, range(n_tasks), limit)
    counts = evaluator.count(range(n_tasks), range(seen), record=record).on_host()
    return record.by_class(counts), record.arrays(counts) if record.every else {}


@pytest.mark.parametrize(
    ("scenario", "seen"), [(ClassIncremental, 6), (PermutedPixels, 10)], ids=["class", "domain"]
)
def test_each_example_by_hand(
    method: FineTuning, tiny: Arrays, scenario: type[Scenario], seen: int
) -> None:
    benchmark = scenario(tiny, 5, seed=1)
    by_class, arrays = recorded(method, benchmark, seen, 3, PLENTY)
    first = benchmark.accuracies[0]
    predicted, right, row = [0] * 10, [0] * 10, 0
    for task in range(3):
        split, ids = benchmark.evaluation(task), benchmark.evaluation_ids(task)
        with torch.no_grad():
            scores = method(Scale()(split.x, None))[:, :seen].double()
        p = scores.softmax(1).numpy()
        for y, scored, which in zip(split.y.tolist(), p, ids.tolist(), strict=True):
            choice = int(scored.argmax())
            target = np.zeros(seen)
            target[y] = 1
            assert arrays["task"][row] == task
            assert (arrays["label"][row], arrays["id"][row]) == (y, which)
            assert arrays[f"predicted_{first}"][row] == choice
            assert arrays["confidence"][row] == pytest.approx(scored[choice], abs=1e-3)
            assert arrays["brier"][row] == pytest.approx(((scored - target) ** 2).sum(), abs=2e-3)
            predicted[choice] += 1
            right[y] += choice == y
            row += 1
    assert {len(a) for name, a in arrays.items() if name != "every"} == {row}
    assert by_class["predicted"] == predicted
    assert by_class["correct"][first] == right
    assert sum(by_class["total"]) == row
    assert {a.dtype.kind for a in arrays.values()} == {"u", "i", "f"}
    assert arrays["confidence"].dtype == np.float16
    if first == "class_il":
        within = arrays["predicted_task_il"]
        assert (within // 2 == arrays["task"]).all()


def test_within_the_limit_every_kth_is_kept(method: FineTuning, tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 5)
    _, whole = recorded(method, benchmark, 10, 5, PLENTY)
    for limit in (1, 500, 1500, 2799, 2800):
        counts, some = recorded(method, benchmark, 10, 5, limit)
        every = int(some["every"])
        assert every == -(-200 * 14 // limit)
        for name, array in whole.items():
            if name != "every":
                np.testing.assert_array_equal(some[name], array[::every])
        assert sum(a.nbytes for name, a in some.items() if name != "every") <= max(limit, 14)
        assert sum(counts["total"]) == 200


def test_without_examples_there_are_counts_alone(method: FineTuning, tiny: Arrays) -> None:
    counts, arrays = recorded(method, ClassIncremental(tiny, 5), 4, 2, None)
    assert (sum(counts["total"]), arrays) == (80, {})


def test_labels_that_are_no_choice(method: FineTuning, tiny: Arrays) -> None:
    """Of a task ahead, in a stream without boundaries: no probability is the label's."""

    class Stream(ClassIncremental):
        boundaries = False

    _, arrays = recorded(method, Stream(tiny, 5), 4, 5, PLENTY)
    unseen = arrays["label"] >= 4
    assert unseen.any()
    assert (arrays["brier"][unseen] >= 1.24).all()  # 1 + Σ p² of four classes, at least 1/4
    assert (arrays["predicted_class_il"] < 4).all()


@pytest.mark.parametrize("records", [True, False])
def test_the_ends_of_tasks_are_recorded(make_trainer: MakeTrainer, records: bool) -> None:
    listener = Listener()
    options = EvaluationConfig(records=records, probe_every=None, first_batches=0)
    results = make_trainer(
        recorders=[listener], evaluation=options, epochs=2, evaluate_every=1, evaluate_future=True
    ).fit()
    rows = [event.row for event in listener.of(events.RawRow)]
    ends = listener.of(events.RawExamples)
    if not records:
        assert (rows, ends) == ([], [])
        return
    assert [end.task for end in ends] == [0, 1, 2]
    assert [row["trained"] for row in rows] == [-1, 0, 0, 1, 1, 2, 2]
    assert [row["boundary"] for row in rows] == [True, *[False, True] * 3]
    last, confusion = rows[-1]["classes"], results["confusion"]["counts"]
    assert last["total"] == [sum(row) for row in confusion]
    assert last["predicted"] == [sum(column) for column in zip(*confusion, strict=True)]
    assert last["correct"]["class_il"] == [row[c] for c, row in enumerate(confusion)]
    right = ends[-1].arrays["predicted_task_il"] == ends[-1].arrays["label"]
    for task, accuracy in enumerate(results["accuracy_matrix"]["task_il"][-1]):
        assert right[ends[-1].arrays["task"] == task].mean() == pytest.approx(accuracy)
