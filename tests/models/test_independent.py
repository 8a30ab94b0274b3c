"""Independent networks: each task's is trained on it alone, and answers for it ever after."""

from __future__ import annotations

import pytest
import torch
from kit import check_method

from perdure.backbones.heads import Linear
from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.models.independent import Independent
from perdure.models.sgd import FineTuning
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def trainer_of(method: FineTuning, benchmark: ClassIncremental) -> Trainer:
    factory = OptimizerFactory(lambda groups: SGD(groups, lr=0.05))
    return Trainer(method, benchmark, Settings(batch_size=10, epochs=1, seed=1), factory)


def test_a_task_is_answered_as_if_it_were_the_only_one(tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 3)
    torch.manual_seed(0)
    method = Independent(MLP(benchmark.shape, 10, (8,)))
    x = torch.rand(6, *benchmark.shape)
    untrained = method.backbone(x).detach()
    trainer_of(method, benchmark).fit()
    for task in range(3):
        torch.manual_seed(0)
        single = FineTuning(MLP(benchmark.shape, 10, (8,)))
        single.loss_scope = "current"  # type: ignore[misc]
        trainer = trainer_of(single, benchmark)
        trainer.state.position.begin_task(task)
        trainer.n_tasks = task + 1
        trainer.fit()
        with torch.no_grad():
            assert torch.equal(method.predict(x, task), single(x))
            assert not torch.equal(method.predict(x, task), untrained)


def test_a_task_that_has_not_begun_is_answered_by_the_first_weights(tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 3)
    method = Independent(MLP(benchmark.shape, 10, (8,)))
    x = torch.rand(6, *benchmark.shape)
    untrained = method.backbone(x).detach()
    trainer = trainer_of(method, benchmark)
    trainer.n_tasks = 1
    trainer.fit()
    with torch.no_grad():
        assert torch.equal(method.predict(x, 1), untrained)
        assert not torch.equal(method.predict(x, 0), untrained)


def test_a_growing_head_is_refused() -> None:
    network = MLP((1, 28, 28), 10, (8,))
    network.head = Linear(8, 10, growing=True)
    with pytest.raises(UserError, match=r"head\.growing=true: independent has a network a task"):
        Independent(network)


def test_class_il_is_undefined(tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 2)
    results = trainer_of(Independent(MLP(benchmark.shape, 10, (8,))), benchmark).fit()
    assert results["average_accuracy"]["class_il"] is None
    assert results["forgetting"]["task_il"] == pytest.approx(0.0)


def test_it_resumes_exactly() -> None:
    check_method(Independent)
