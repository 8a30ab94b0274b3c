"""LwF-MC: sigmoids of the classes seen; the network before the task answers for the old ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.models.base import Task
from perdure.models.lwf_mc import LwFMC
from perdure.training.optim import SGD

ORDER = [4, 1, 7, 2, 0, 3]


def grown(last: int) -> LwFMC:
    torch.manual_seed(0)
    method, seen = LwFMC(MLP((1, 28, 28), 10, (12,))), Classes()
    for index, classes in enumerate((ORDER[:2], ORDER[2:5], ORDER[5:])[: last + 1]):
        seen = seen | classes
        method.task = Task(index, Classes(classes), seen)
        method.grow(method.task)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.3 * torch.randn(p.shape))
    return method


@pytest.mark.parametrize("last", [0, 1, 2])
def test_loss_is_that_of_icarl_without_exemplars(digits: Callable[..., Batch], last: int) -> None:
    method = grown(last)
    task = method.task
    batch = digits(0, 12, *task.classes)
    batch.scopes = ((12, tuple(task.seen)),)
    z, old = method(batch.x).tolist(), method.old(batch.x).tolist()
    total = 0.0
    for i, y in enumerate(batch.y.tolist()):
        for c in task.seen:
            target = 1 / (1 + math.exp(-old[i][c])) if c in task.past else float(c == y)
            g = 1 / (1 + math.exp(-z[i][c]))
            total -= target * math.log(g) + (1 - target) * math.log(1 - g)
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    assert float(ours.detach()) == pytest.approx(total / (12 * len(task.seen)), rel=1e-5)
    ours.backward()
    assert all(p.grad is None for p in method.old.parameters())
    gradient = method.backbone.head.weight.grad
    assert [c for c in range(10) if gradient[c].any()] == sorted(task.seen), "later ones wait"


def test_it_keeps_no_exemplars_and_predicts_by_its_outputs(digits: Callable[..., Batch]) -> None:
    method, x = grown(1), digits(0, 9).x
    assert not method.keeps_exemplars
    assert method.replays == 0
    assert torch.equal(method.predict(x), method.backbone(x))


def test_resumes_and_splits() -> None:
    check_method(LwFMC, optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5))


def test_classes_may_come_again(tiny: Arrays) -> None:
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    settings = {"epochs": 1, "batch_size": 30}
    check_method(LwFMC, benchmark=benchmark, settings=settings, shards=(2,))
