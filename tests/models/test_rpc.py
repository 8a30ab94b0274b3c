"""RPC: a fixed classifier, and a memory of every class from the second task on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import Simplex
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.policy import StepPolicy, TaskPolicy
from perdure.buffers.random_exemplars import RandomExemplars
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import ClassIncremental, Scenario
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.rpc import RPC
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def make_network(benchmark: Scenario | None = None) -> MLP:
    shape = benchmark.shape if benchmark else (1, 28, 28)
    made = MLP(shape, 10, (16,))
    made.head = Simplex(16, 10)
    return made


def test_loss_is_cross_entropy_of_products_with_the_vertices(digits: Callable[..., Batch]) -> None:
    """Over all ten classes, with the stream and the draw in one mean."""
    torch.manual_seed(0)
    method = RPC(make_network())
    method.task = Task(1, range(2, 4), range(4))
    now, past = digits(0, 7, 2, 3), digits(0, 5, 0, 1)
    head = method.backbone.head
    total = torch.zeros(())
    for x, y in zip(torch.cat([now.x, past.x]), [*now.y.tolist(), *past.y.tolist()], strict=True):
        u = F.linear(method.backbone.features(x[None])[0], head.project.weight, head.project.bias)
        scores = torch.stack([vertex @ u for vertex in head.vertices])
        total = total + scores.exp().sum().log() - scores[y]
    ours: Tensor = method.loss(now, past)  # type: ignore[assignment]
    torch.testing.assert_close(ours, total / 12)


class Watched(RPC):
    """Notes what is replayed, by task, and how many of each class are stored at its end."""

    def loss(self, batch: Batch, *replay: Batch) -> Any:
        noted = self.__dict__.setdefault("replayed", {})
        noted.setdefault(self.task.index, set()).update(replay[0].y.tolist())
        return super().loss(batch, *replay)

    def before_evaluation(self, memory: Any, data: Any) -> None:
        counts = torch.bincount(memory.split()[1], minlength=10)
        self.__dict__.setdefault("counts", []).append(counts)


def trained(tiny: Arrays, policy: StepPolicy | TaskPolicy) -> Watched:
    torch.manual_seed(0)
    method = Watched(make_network())
    optimizers = OptimizerFactory(lambda groups: SGD(groups, lr=0.1))
    benchmark = ClassIncremental(tiny, 5)
    Trainer(method, benchmark, Settings(batch_size=20), optimizers, Buffer(policy)).fit()
    return method


@pytest.mark.parametrize("size", [60, 97])
def test_the_memory_has_as_many_of_each_class_at_every_task_s_end(tiny: Arrays, size: int) -> None:
    """Where a peer's memory has no example of the second task."""
    method = trained(tiny, RandomExemplars(size, 10))
    counts = method.__dict__["counts"]
    assert len(counts) == 5
    for task, found in enumerate(counts):
        seen = found[: 2 * task + 2]
        assert int(seen.sum()) == int(found.sum()) == size
        assert int(seen.max() - seen.min()) <= 1
    assert torch.equal(method.frozen_state()["vertices"], Simplex(16, 10).vertices)


@pytest.mark.parametrize("policy", [RandomExemplars, Reservoir])
def test_the_current_task_is_not_replayed(tiny: Arrays, policy: Callable[..., Any]) -> None:
    replayed = trained(tiny, policy(97, 10)).__dict__["replayed"]
    assert replayed == {task: set(range(2 * task)) for task in range(5)}


def test_resumes_and_splits() -> None:
    check_method(
        RPC,
        buffer=lambda: RandomExemplars(40, 10),
        backbone=make_network,
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
    )


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"^head: .*must be head=simplex$"):
        RPC(MLP((1, 28, 28), 10, (16,)))
