"""Streams without boundaries, and methods that must be told the task: what they are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kit import MakeTrainer
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.general import RotatingPairs
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Task
from perdure.models.er import ER
from perdure.models.lwf import LwF
from perdure.models.memory import Memory
from perdure.models.sgd import FineTuning
from perdure.models.slda import SLDA
from perdure.testing import check_method
from perdure.training.optim import SGD


class Told(ER):
    """Keeps what it was told, and checks that nothing of the future is among it."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.occurred: set[int] = set()
        self.hooks: list[str] = []
        self.sizes: list[int] = []

    def grow(self, task: Task) -> None:
        self.hooks.append("grow")
        assert (task.index, len(task.classes), len(task.seen)) == (0, 0, 0)

    def before_task(self, data: Data) -> None:
        self.hooks.append("before_task")

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.occurred |= set(batch.y.tolist())
        assert set(self.task.seen) == self.occurred
        assert set(self.task.classes) == self.occurred
        assert self.task.index == 0
        self.sizes.append(len(self.task.seen))
        return super().loss(batch, *replay)

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        self.hooks.append("before_evaluation")


def test_the_method_knows_what_has_occurred_and_nothing_else(
    make_trainer: MakeTrainer, few: Arrays
) -> None:
    trainer = make_trainer(Told, benchmark=RotatingPairs(few, seed=3))
    results = trainer.fit()
    method = trainer.method
    assert method.hooks == ["grow", "before_task", "before_evaluation"]
    assert method.sizes[0] == 2
    assert method.sizes[-1] == 9
    assert method.sizes == sorted(method.sizes)
    assert results["forgetting"] == {"class_il": None}
    assert results["average_accuracy"]["class_il"] > 0.2


@pytest.mark.parametrize("scope", ["seen", "full"])
def test_a_stream_resumes_at_every_step(few: Arrays, scope: str) -> None:
    settings = {"epochs": 1, "loss_scope": scope, "batch_size": 40}
    check_method(ER, benchmark=RotatingPairs(few, seed=3), settings=settings)


@pytest.mark.parametrize(
    ("method", "buffer", "message"),
    [
        (lambda b: LwF(b, 1.0, 2.0), None, "LwF"),
        (ER, lambda: Buffer(Herding(50, 10)), "ER stores examples when a task ends"),
    ],
    ids=["hook", "policy"],
)
def test_what_needs_boundaries_is_refused(
    make_trainer: MakeTrainer, few: Arrays, method: Any, buffer: Any, message: str
) -> None:
    changes = {} if buffer is None else {"buffer": buffer()}
    with pytest.raises(UserError, match=message):
        make_trainer(method, benchmark=RotatingPairs(few, seed=3), **changes)


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_a_method_of_one_phase_needs_no_boundaries(
    make_trainer: MakeTrainer, few: Arrays, base_epochs: int
) -> None:
    def trainer() -> Any:
        return make_trainer(
            lambda network: SLDA(network, 1e-4, base_epochs), benchmark=RotatingPairs(few, seed=3)
        )

    if base_epochs:
        with pytest.raises(UserError, match="SLDA does something when a task ends"):
            trainer()
    else:
        assert trainer().fit()["average_accuracy"]["class_il"] > 0.2


class Multihead(FineTuning):
    """Uses the task's number to predict."""

    needs_task_id = True

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        assert task is not None
        scores = self(x)
        own = torch.zeros_like(scores)
        own[:, 4 * task : 4 * task + 4] = 10.0
        return scores + own


def test_a_method_that_is_told_the_task_has_no_class_il_accuracy(
    make_trainer: MakeTrainer, few: Arrays
) -> None:
    results = make_trainer(Multihead, epochs=1, evaluate_every=1).fit()
    assert results["average_accuracy"]["class_il"] is None
    assert results["average_accuracy"]["task_il"] > 0.5
    assert list(results["accuracy_matrix"]) == ["task_il"]
    assert results["per_class_accuracy"] is not None
    with pytest.raises(UserError, match="must be told the task of an example"):
        make_trainer(Multihead, benchmark=RotatingPairs(few, seed=3))


class Interpolating(FineTuning):
    plain_sgd = True


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda g: SGD(g, lr=0.1, momentum=0.9), r"optimizer\.momentum=0\.9: Interpolating moves"),
        (lambda g: SGD(g, lr=0.1, weight_decay=0.1), r"optimizer\.weight_decay=0\.1"),
        (lambda g: torch.optim.Adam(g), "optimizer: Interpolating moves"),
    ],
)
def test_only_plain_sgd_where_the_method_moves_the_weights(
    make_trainer: MakeTrainer, optimizer: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(Interpolating, optimizer=optimizer)
    assert make_trainer(Interpolating, iterations=2).fit()["status"] == "finished"
