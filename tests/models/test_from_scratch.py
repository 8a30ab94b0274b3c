"""Training from scratch: every task starts at the first weights, on all tasks so far."""

from __future__ import annotations

import torch
from kit import check_method

from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.models.from_scratch import FromScratch
from perdure.models.sgd import FineTuning
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def test_the_last_task_alone_decides(tiny: Arrays) -> None:
    """After task 2 of 3 the weights are those of one task that has all examples so far."""
    benchmark = ClassIncremental(tiny, 3)
    torch.manual_seed(0)
    network = MLP(benchmark.shape, 10, (8,))
    first = {name: value.clone() for name, value in network.state_dict().items()}
    factory = OptimizerFactory(lambda groups: SGD(groups, lr=0.05))
    settings = Settings(batch_size=10, epochs=1, seed=1)
    trainer = Trainer(FromScratch(network), benchmark, settings, factory)
    trainer.fit()

    class Last(ClassIncremental):
        def train(self, task: int):  # type: ignore[no-untyped-def]
            return benchmark.joint()

    alone = MLP(benchmark.shape, 10, (8,))
    alone.load_state_dict(first)
    other = Trainer(FineTuning(alone), Last(tiny, 3), settings, factory)
    other._hooks.grow_to(2)
    other.state.position.begin_task(2)
    other.fit()
    for name, value in network.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
        assert not torch.equal(value, first[name])


def test_it_resumes_exactly() -> None:
    check_method(FromScratch)
