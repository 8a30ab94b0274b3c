"""Tests for a method of your own: does it resume exactly, split into shards, keep its loss pure?

from perdure.testing import check_method

def test_mine():
    check_method(Mine, {"alpha": 0.5})
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from perdure.training.state import Position, SaveContext, SavedCheckpoint
from perdure.training.trainer import Trainer

_PARTS = ("model", "optimizer", "main_optimizer", "buffer")


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
        _check_resumes(trial, n, every)
    _check_purity(trial)
    if kind.evaluable == "anytime":
        often = trial.trainer(evaluate_every=1)
        _require_same(_end(often), _end(trial.trainer()), "evaluated after every epoch")
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

    def trainer(self, checkpoints: _Saved | None = None, **changes: Any) -> Trainer:
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


@dataclass
class _Saved:
    """Keeps the state at every step as a checkpoint file would hold it."""

    states: list[tuple[Position, bytes]] = field(default_factory=list)

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.states.append((Position(**context.position.as_dict()), file.getvalue()))

    def step_due(self, position: Position) -> bool:
        return True

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None: ...

    def finish(self) -> None: ...


def _check_resumes(trial: _Trial, shards: int, every: int) -> None:
    saved = _Saved()
    whole = _end(trial.trainer(saved, shards=shards))
    for number, (position, content) in enumerate(saved.states[:-1:every]):
        torch.manual_seed(number)  # what is drawn must not follow from what was drawn before
        trainer = trial.trainer(shards=shards)
        trainer.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        at = f"task {position.task}, phase {position.phase}, epoch {position.epoch}"
        where = f"shards={shards}, resumed at {at}, step {position.step}"
        _require_same(_end(trainer), whole, where)


def _check_purity(trial: _Trial) -> None:
    trainer = trial.trainer()
    method, loss = trainer.method, trainer.method.loss
    networks = {
        f"{name}.{key}" for name, net in method.named_children() for key, _ in net.named_buffers()
    }

    def watched(*batches: Any) -> Any:
        before = {key: value.clone() for key, value in method.state_dict().items()}
        output = loss(*batches)
        for key, value in method.state_dict().items():
            if key not in networks and not torch.equal(value, before[key]):
                raise AssertionError(
                    f"loss changed {key}; return what belongs to each example as rows or remember, "
                    "and change state in after_step"
                )
        return output

    object.__setattr__(method, "loss", watched)
    trainer.fit()


def _end(trainer: Trainer) -> dict[str, Any]:
    """Train to the end; what must be the same however often the run was interrupted."""
    results = trainer.fit()
    state = trainer.state_dict()
    found = {key: state[key] for key in _PARTS if key in state}
    return {"accuracy_matrix": results["accuracy_matrix"], **found}


def _require_same(found: Any, expected: Any, where: str) -> None:
    for path in _differences(found, expected, ""):
        raise AssertionError(f"{where}: {path.removeprefix('.')} differs from the whole run's")


def _differences(a: Any, b: Any, path: str) -> Iterator[str]:
    """Where two nested values are not the same to the bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            yield path
        for key in a.keys() & b.keys():
            yield from _differences(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{path}[{i}]")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            yield path
    elif a != b:
        yield path
