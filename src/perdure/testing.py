"""Tests for a method of your own: does it resume exactly, split into shards, keep its loss pure?

from perdure.testing import check_method

def test_mine():
    check_method(Mine, {"alpha": 0.5})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perdure.audit.exactness import (
    Saved,
    require_exact_resumes,
    require_neutral_measuring,
    require_pure_loss,
)
from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.policy import StepPolicy, TaskPolicy
from perdure.buffers.reservoir import Reservoir
from perdure.config.schema import Mode
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import ClassIncremental, Scenario
from perdure.datasets.sources.mnist import MNIST
from perdure.models.base import Method
from perdure.randomness import seed_initialization
from perdure.training.optim import SGD, Groups, OptimizerFactory
from perdure.training.recording import Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def check_method(
    method: Callable[..., Method],
    options: Mapping[str, Any] | None = None,
    *,
    buffer: Callable[[], StepPolicy | TaskPolicy] = lambda: Reservoir(40, 10),
    backbone: Callable[[Scenario], Backbone] = lambda b: MLP(b.shape, b.n_classes, (16,)),
    benchmark: Scenario | None = None,
    optimizer: Callable[[Groups], torch.optim.Optimizer] = lambda groups: SGD(groups, lr=0.05),
    settings: Mapping[str, Any] | None = None,
    shards: Sequence[int] = (1, 2),
    every: int = 1,
) -> None:
    """Train `method` on a few digits, and require what every method of Perdure keeps.

    A run resumed from any step, in any phase and between tasks ends as the run that was never
    stopped, to the bit; so it does with every batch in two shards, where the loss is `additive`.
    `loss` changes no parameter or buffer; measuring after every epoch changes nothing; a method
    that may train jointly does.

    Args:
        method: the class; called with a backbone and `options`.
        options: its hyperparameters.
        buffer: makes the policy of the replay buffer, where the method keeps one.
        backbone: makes the network for the benchmark.
        benchmark: three tasks of ten digits by default, some 20 images of each digit.
        optimizer: makes the optimizer of the parameter groups.
        settings: of training, as `perdure.training.settings.Settings` takes them.
        shards: into how many parts batches are split, one run each.
        every: resumes from every so many-th step.

    Raises:
        AssertionError: what differs, and from where the run was resumed.
        UserError: the method cannot be trained so.
    """
    trial = _Trial(
        lambda network: method(network, **(options or {})),
        buffer,
        backbone,
        benchmark or digits(),
        optimizer,
        {"batch_size": 10, "epochs": 2, "seed": 3, "log_every": 4, **(settings or {})},
    )
    kind = type(trial.trainer().method)
    for n in shards if kind.additive else [1]:
        require_exact_resumes(trial, n, lambda n: range(0, n, every))
    require_pure_loss(trial)
    if kind.evaluable == "anytime":
        require_neutral_measuring(trial)
    if kind.joint:
        trial.trainer(mode=Mode.joint).fit()


def digits(per_class: int = 20, n_tasks: int = 3) -> Scenario:
    """A class-incremental benchmark of the first few embedded MNIST images of each digit."""
    arrays = MNIST().load(Path())
    few = Arrays(_first(arrays.train, per_class), _first(arrays.test, 10), arrays.classes)
    return ClassIncremental(few, n_tasks)


def _first(split: Split, n: int) -> Split:
    rows = torch.cat([(split.y == c).nonzero().squeeze(1)[:n] for c in range(10)]).sort().values
    return Split(split.x[rows], split.y[rows])


@dataclass(frozen=True)
class _Trial:
    """Makes trainers that differ in nothing but what is asked for."""

    method: Callable[[Backbone], Method]
    buffer: Callable[[], StepPolicy | TaskPolicy]
    backbone: Callable[[Scenario], Backbone]
    benchmark: Scenario
    optimizer: Callable[[Groups], torch.optim.Optimizer]
    settings: Mapping[str, Any]

    def trainer(self, checkpoints: Saved | None = None, **changes: Any) -> Trainer:
        settings = Settings(**{**self.settings, **changes})
        seed_initialization(settings.seed)
        return Trainer(
            self.method(self.backbone(self.benchmark)),
            self.benchmark,
            settings,
            OptimizerFactory(self.optimizer),
            Buffer(self.buffer()),
            recording=Recording(checkpoints=checkpoints),
        )
