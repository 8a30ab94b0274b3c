"""Tasks whose labels are no ranges, of any size, trained for any epochs, and a stream without any.

A benchmark whose tasks interleave the labels is the usual one with the labels renamed: a network
whose head is renamed alike must learn the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.datasets.general import RotatingPairs
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method
from perdure.models.er import ER
from perdure.models.lwf import LwF
from perdure.models.memory import Memory
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.training.evaluation import Evaluator, measurable
from perdure.training.trainer import Trainer

RENAMED = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
"""The data set's class at each position: labels 0 to 4 of the usual benchmark are 0, 2, 4, 6, 8."""


class Interleaved(ClassIncremental):
    """Every `n_tasks`-th label."""

    def classes(self, task: int) -> Classes:
        return Classes(range(task, self.n_classes, self.n_tasks))


class AnyLabelsLwF(LwF):
    """LwF for tasks of any labels."""

    def __init__(self, backbone: Backbone, alpha: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(backbone, alpha, temperature)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        seen, logits = self.task.seen, self(batch.x)
        losses = cross_entropy(seen.select(logits), seen.positions(batch.y), reduction="none")
        if old := seen - self.task.classes:
            with torch.no_grad():
                target = self._soft(old.select(self.old(batch.x))).exp()
            losses = losses - self.alpha * (target * self._soft(old.select(logits))).sum(1)
        return batch.mean(losses)

    def _soft(self, logits: Tensor) -> Tensor:
        return log_softmax(logits / self.temperature, 1)

    def after_task(self, data: Data, memory: Memory) -> None:
        self.old.load_state_dict(self.backbone.state_dict())


class UsualLwF(LwF):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, 1.0, 2.0)


def rename_head(trainer: Trainer) -> None:
    """The row that a class had at its position goes to its label."""
    head = trainer.method.backbone.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter[torch.tensor(RENAMED)] = parameter.clone()


@pytest.mark.parametrize(
    ("method", "usual"), [(ER, ER), (AnyLabelsLwF, UsualLwF)], ids=["er", "lwf"]
)
def test_renamed_labels_learn_the_same(
    make_trainer: MakeTrainer, few: Arrays, method: type[Method], usual: type[Method]
) -> None:
    given: dict[str, Any] = {"epochs": 1, "evaluate_future": True}
    plain = make_trainer(usual, benchmark=ClassIncremental(few, 2, class_order=RENAMED), **given)
    renamed = make_trainer(method, benchmark=Interleaved(few, 2), **given)
    rename_head(renamed)
    expected, found = plain.fit(), renamed.fit()
    for name in ("class_il", "task_il"):
        for now, before in zip(
            found["accuracy_matrix"][name], expected["accuracy_matrix"][name], strict=True
        ):
            assert now == pytest.approx(before, abs=0.01)  # sums are rounded in another order
        assert found["forward_transfer"][name] == pytest.approx(
            expected["forward_transfer"][name], abs=0.01
        )
    assert found["average_accuracy"]["task_il"] > 0.6
    assert found["average_accuracy"]["class_il"] > 0.3


def test_confusions_of_labels_that_are_no_range(make_trainer: MakeTrainer, few: Arrays) -> None:
    benchmark = Interleaved(few, 2)
    trainer = make_trainer(FineTuning, benchmark=benchmark, stop_after=1)
    results = trainer.fit()
    held, odd = benchmark.evaluation(0), [0, 2, 4, 6, 8]
    with torch.no_grad():
        chosen = trainer.method(Scale()(held.x, None))[:, odd].argmax(1).tolist()
    counts = [[0] * 5 for _ in odd]
    for true, column in zip(held.y.tolist(), chosen, strict=True):
        counts[odd.index(true)][column] += 1
    assert results["confusion"]["classes"] == ["0", "2", "4", "6", "8"]
    assert results["confusion"]["counts"] == counts
    right = sum(counts[c][c] for c in range(5)) / len(held)
    assert results["accuracy_matrix"] == {"class_il": [[right]], "task_il": [[right]]}
    assert list(results["per_class_accuracy"]) == ["0", "2", "4", "6", "8"]


def test_blurry_tasks_are_measured_on_all_that_was_seen(
    make_trainer: MakeTrainer, few: Arrays
) -> None:
    benchmark = Blurry(few, 3, blurry_ratio=0.3)
    results = make_trainer(benchmark=benchmark).fit()
    assert list(results["accuracy_matrix"]) == ["class_il"]
    total = sum(map(sum, results["confusion"]["counts"]))
    assert total == len(few.test) == sum(map(benchmark.n_evaluation, range(3)))
    correct = sum(row[c] for c, row in enumerate(results["confusion"]["counts"]))
    assert results["average_accuracy_over_examples"]["class_il"] == pytest.approx(correct / total)
    assert results["forgetting"]["class_il"] is not None


def test_tasks_of_different_sizes_are_weighted_by_their_examples(
    make_trainer: MakeTrainer, few: Arrays
) -> None:
    benchmark = ClassIncremental(few, class_sizes=[6, 3, 1])
    results = make_trainer(benchmark=benchmark).fit()
    sizes = [len(benchmark.evaluation(task)) for task in range(3)]
    for name, matrix in results["accuracy_matrix"].items():
        correct = sum(a * n for a, n in zip(matrix[-1], sizes, strict=True))
        assert results["average_accuracy_over_examples"][name] == pytest.approx(
            correct / sum(sizes)
        )
        assert results["average_accuracy"][name] == pytest.approx(sum(matrix[-1]) / 3)


@pytest.mark.parametrize(
    ("epochs", "each"),
    [([3, 1, 2], [3, 1, 2]), ({"first": 3, "rest": 1}, [3, 1, 1])],
    ids=["list", "first-rest"],
)
def test_each_task_is_trained_for_its_epochs(
    make_trainer: MakeTrainer, epochs: Any, each: list[int]
) -> None:
    listener = Listener()
    trainer = make_trainer(FineTuning, epochs=epochs, recorders=[listener])
    trainer.fit()
    starts = listener.of(events.TaskStart)
    assert [start.steps // start.steps_per_epoch for start in starts] == each
    assert trainer.position.global_step == sum(start.steps for start in starts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": [2, 1]}, r"dataset\.epochs=\[2,1\]: has 2 entries, but there are 3 tasks"),
        ({"epochs": [2, 1, 1], "mode": "joint"}, r"with training=joint: a joint run"),
        ({"epochs": {"first": 2}}, r"epochs=.*: must be an integer, 1 or more, a list"),
    ],
    ids=["length", "joint", "keys"],
)
def test_epochs_that_do_not_fit_are_refused(
    make_trainer: MakeTrainer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(FineTuning, **options)


class TestAStream:
    """MNIST-360 on few images."""

    def test_it_has_one_row_and_nothing_that_needs_two_tasks(
        self, make_trainer: MakeTrainer, few: Arrays
    ) -> None:
        benchmark = RotatingPairs(few)
        results = make_trainer(benchmark=benchmark, batch_size=16).fit()
        ((accuracy,),) = results["accuracy_matrix"]["class_il"]
        for name in ("average_accuracy", "average_accuracy_over_examples"):
            assert results[name] == {"class_il": pytest.approx(accuracy)}
        for name in ("forgetting", "backward_transfer", "forward_transfer", "min_accuracy"):
            assert results[name] == {"class_il": None}
        assert results["average_anytime_accuracy"]["class_il"] == accuracy

    def test_its_steps_are_the_stream_in_its_order(
        self, make_trainer: MakeTrainer, few: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        benchmark, shown = RotatingPairs(few), []
        loss = ER.loss

        def watched(self: ER, batch: Batch, *replay: Batch) -> Loss:
            shown.extend(batch.y.tolist())
            return loss(self, batch, *replay)

        monkeypatch.setattr(ER, "loss", watched)
        make_trainer(benchmark=benchmark, batch_size=16).fit()
        assert shown == benchmark.train(0).y.tolist()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"epochs": 2}, r"dataset\.epochs=2: RotatingPairs is a stream .* must be 1"),
            ({"iterations": 999}, r"dataset\.iterations=999: .* must be at most \d+"),
        ],
        ids=["epochs", "iterations"],
    )
    def test_it_is_seen_once(
        self, make_trainer: MakeTrainer, few: Arrays, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            make_trainer(benchmark=RotatingPairs(few), **options)
        make_trainer(FineTuning, benchmark=RotatingPairs(few), mode="joint", epochs=2)

    def test_a_part_of_it_confuses_only_what_was_seen(self, few: Arrays) -> None:
        benchmark, seen = RotatingPairs(few), Classes([0, 1, 2])
        torch.manual_seed(0)
        method = FineTuning(MLP(benchmark.shape, 9, (20,)))
        counts = Evaluator(method, benchmark, Scale(), 64).count([0], seen, range(1))
        assert counts.confusion is not None
        held = benchmark.evaluation(0)
        known = torch.bincount(held.y, minlength=9)[:3]
        assert counts.confusion.sum(1).tolist() == known.tolist()
        assert int(counts.confusion.diagonal().sum()) == int(counts.correct["class_il"])
        assert counts.total == [len(held)]


class Told(FineTuning):
    """Needs the task of an example."""

    needs_task_id = True

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        assert task is not None
        return torch.full((len(x), 10), 0.0).index_fill(1, torch.tensor([2 * task]), 1.0)


def test_a_method_that_must_be_told_the_task_has_no_class_il(few: Arrays) -> None:
    method, benchmark = Told(MLP((1, 28, 28), 10, (20,))), ClassIncremental(few, 5)
    assert measurable(method, benchmark) == ("task_il",)
    counts = Evaluator(method, benchmark, Scale(), 64).count(range(5), range(10), range(5))
    first = [int((benchmark.evaluation(task).y == 2 * task).sum()) for task in range(5)]
    assert {name: n.tolist() for name, n in counts.correct.items()} == {"task_il": first}
    assert measurable(method, PermutedPixels(few, 2)) == ("domain_il",)
    with pytest.raises(UserError, match="Told must be told the task of an example, which a gen"):
        measurable(method, RotatingPairs(few))
    only = Evaluator(FineTuning(method.backbone), benchmark, Scale(), 64, accuracies=["task_il"])
    assert list(only.count([0], range(2)).correct) == ["task_il"]
