"""A frozen backbone: which weights move, when, and that batch norm keeps its statistics."""

from __future__ import annotations

import pytest
import torch
from kit import check_method

from perdure.backbones.resnet import ReducedResNet18
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.models.features_state import features_state
from perdure.models.frozen_backbone import FrozenBackbone
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


@pytest.mark.parametrize("train_first", [True, False])
def test_the_head_alone_moves_after_the_first_task(train_first: bool, tiny: Arrays) -> None:
    benchmark = ClassIncremental(tiny, 2)
    backbone = ReducedResNet18(benchmark.shape, 10)
    start = {name: value.clone() for name, value in backbone.state_dict().items()}
    settings = Settings(batch_size=10, epochs=1, seed=1)
    factory = OptimizerFactory(lambda groups: SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01))
    trainer = Trainer(FrozenBackbone(backbone, train_first), benchmark, settings, factory)
    trainer.n_tasks = 1
    trainer.fit()
    after_first = {name: value.clone() for name, value in backbone.state_dict().items()}
    body = features_state(backbone)
    assert any(name.endswith("running_mean") for name in body)
    moved = [not torch.equal(start[name], after_first[name]) for name in body]
    assert all(moved) if train_first else not any(moved)
    assert not torch.equal(start["head.weight"], after_first["head.weight"])
    trainer.n_tasks = 2
    trainer.fit()
    last = backbone.state_dict()
    assert all(torch.equal(after_first[name], last[name]) for name in body)
    assert not torch.equal(after_first["head.weight"], last["head.weight"])


@pytest.mark.parametrize("train_first", [True, False])
def test_it_resumes_exactly(train_first: bool) -> None:
    check_method(FrozenBackbone, {"train_first": train_first})
