"""Cumulative training: which examples each task is trained on."""

from __future__ import annotations

import pytest
import torch
from kit import check_method

from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels
from perdure.models.base import Loss, Method
from perdure.models.cumulative import Cumulative
from perdure.models.phase import Phase, check_phases
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def trainer_of(method: Method, benchmark: ClassIncremental | PermutedPixels) -> Trainer:
    factory = OptimizerFactory(lambda groups: SGD(groups, lr=0.05))
    return Trainer(method, benchmark, Settings(batch_size=10, epochs=2, seed=1), factory)


@pytest.mark.parametrize("kind", [ClassIncremental, PermutedPixels])
def test_each_task_is_trained_on_all_so_far(kind: type[ClassIncremental], tiny: Arrays) -> None:
    """Every example of the tasks so far once an epoch, and none of a later task."""
    benchmark = kind(tiny, 3)
    trained: dict[tuple[int, int], list[bytes]] = {}

    class Watched(Cumulative):
        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            at = (self.task.index, self.task.epoch)
            trained.setdefault(at, []).extend(row.numpy().tobytes() for row in batch.raw)
            return super().loss(batch)

    trainer_of(Watched(MLP(benchmark.shape, benchmark.n_classes, (8,))), benchmark).fit()
    for (task, _), rows in trained.items():
        expected = [benchmark.train(each).x for each in range(task + 1)]
        assert sorted(rows) == sorted(row.numpy().tobytes() for row in torch.cat(expected))
    assert sorted(trained) == [(task, epoch) for task in range(3) for epoch in range(2)]


def test_a_schedule_covers_the_examples_of_all_tasks_so_far(tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 5)
    trainer = trainer_of(Cumulative(MLP(benchmark.shape, 10, (8,))), benchmark)
    steps = trainer._phases.schedule_lengths
    assert steps == [2] * 5  # epochs
    sizes = [benchmark.n_train(task) for task in range(5)]
    assert trainer.fit()["global_step"] == sum(2 * -(-sum(sizes[: t + 1]) // 10) for t in range(5))


def test_nothing_is_held_out_of_all_that_was_seen() -> None:
    phases = (Phase("a", "all-seen"), Phase("b", "held-out", held_out=(0.1, 0.1)))
    with pytest.raises(ValueError, match="goes with nothing held out"):
        check_phases(phases, "Mine", stores_at_step=False, keeps_all_data=True)


def test_all_data_are_for_those_alone_who_say_so() -> None:
    with pytest.raises(ValueError, match=r"Mine.phases: a is trained .* declare keeps_all_data"):
        check_phases((Phase("a", "all-seen"),), "Mine", stores_at_step=False)


def test_it_resumes_exactly() -> None:
    check_method(Cumulative)
