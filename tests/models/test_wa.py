"""Weight aligning: the loss, lengths after a task, weights that are never negative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import Cosine, Linear
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import ClassIncremental, Scenario
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.memory import Memory
from perdure.models.wa import WA
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {"temperature": 2.0, "clip": True}
ORDER = [4, 1, 7, 2, 0, 3]
TASKS = [
    Task(0, Classes(ORDER[:2]), Classes(ORDER[:2])),
    Task(1, Classes(ORDER[2:5]), Classes(ORDER[:5])),
    Task(2, Classes(ORDER[5:]), Classes(ORDER)),
]


def network(growing: bool) -> MLP:
    made = MLP((1, 28, 28), 10, (16,))
    if growing:
        made.head = Linear(16, 10, growing=True)
    return made


def grown(last: int, growing: bool = False, **options: Any) -> WA:
    """In the task `last` of unequal ones, with a network other than its teacher."""
    torch.manual_seed(0)
    method = WA(network(growing), **{**OPTIONS, **options})
    for task in TASKS[: last + 1]:
        method.task = task
        method.backbone.grow(task.classes)
        method.grow(task)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.3 * torch.randn(p.shape))
    return method


@pytest.mark.parametrize("growing", [False, True], ids=["fixed", "growing"])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_loss_is_the_paper_s(digits: Digits, last: int, growing: bool) -> None:
    """Unequal tasks: λ is the share of the classes, not of the tasks."""
    method, task = grown(last, growing), TASKS[last]
    batch, old, seen = digits(0, 15, *task.seen), list(task.past), list(task.seen)
    batch.scopes = ((15, tuple(seen)),)
    z, z_old = method.backbone(batch.x).double(), method.old(batch.x).double()
    expected = torch.zeros((), dtype=torch.float64)
    share = len(old) / len(seen)
    for i, y in enumerate(batch.y.tolist()):
        expected = expected + (1 - share) * (z[i, seen].exp().sum().log() - z[i, y]) / 15
        if old:
            q, p = ((scores[i, old] / 2).exp() for scores in (z_old, z))
            expected = expected - share * (q / q.sum() * (p / p.sum()).log()).sum() / 15
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    ours.backward()
    assert all(p.grad is None for p in method.old.parameters())


def rows(method: WA) -> dict[int, Tensor]:
    head = method.backbone.head
    labels = head.classes if isinstance(head, Linear) else range(10)
    weights = [row for layer in method.layers for row in layer.weight.detach().clone()]
    return dict(zip(labels, weights, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("growing", [False, True], ids=["fixed", "growing"])
@pytest.mark.parametrize("last", [1, 2])
def test_new_weights_get_the_old_ones_average_length(
    digits: Digits, last: int, growing: bool
) -> None:
    """Ranks within old classes and within new ones stay; what is not seen yet stays, too."""
    method, task = grown(last, growing), TASKS[last]
    if growing:
        method.layers[-1].weight.mul_(3)
    else:
        method.layers[0].weight[list(task.classes)] *= 3
    x, before = digits(0, 40).x, rows(method)
    ranks = [classes.select(method(x)).argsort(1) for classes in (task.past, task.classes)]
    method.after_task(lambda n: [], Memory(None, lambda raw, _: raw))
    after = rows(method)
    mean = {
        name: sum(float(after[c].norm()) for c in classes) / len(classes)
        for name, classes in (("old", task.past), ("new", task.classes))
    }
    assert mean["new"] == pytest.approx(mean["old"], rel=1e-5)
    ratio = {c: after[c] / before[c] for c in after}
    common = ratio[task.classes[0]][0]
    assert abs(float(common) - 1) > 0.01
    for c in after:
        wanted = torch.full_like(ratio[c], float(common) if c in task.classes else 1.0)
        torch.testing.assert_close(ratio[c], wanted, rtol=1e-4, atol=1e-5)
    for classes, rank in zip((task.past, task.classes), ranks, strict=True):
        assert torch.equal(classes.select(method(x)).argsort(1), rank)


def test_after_the_first_task_nothing_is_aligned() -> None:
    method = grown(0)
    before = rows(method)
    method.after_task(lambda n: [], Memory(None, lambda raw, _: raw))
    assert all(torch.equal(before[c], row) for c, row in rows(method).items())


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("growing", [False, True], ids=["fixed", "growing"])
def test_a_run_aligns_before_it_measures_and_teaches(
    tiny: Arrays, clip: bool, growing: bool
) -> None:
    teachers: dict[int, dict[int, Tensor]] = {}
    ends: dict[int, dict[int, Tensor]] = {}

    class Watched(WA):
        def loss(self, batch: Batch, *replay: Batch) -> Any:
            head = self.old.network.head
            parts = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
            weights = [row for part in parts for row in part.weight.detach().clone()]
            teachers[self.task.index] = dict(enumerate(weights))
            if clip and self.task.step:
                assert all((layer.weight >= 0).all() for layer in self.layers)
            return super().loss(batch)

        def after_task(self, data: Any, memory: Memory) -> None:
            super().after_task(data, memory)
            ends[self.task.index] = rows(self)

    torch.manual_seed(0)
    benchmark = ClassIncremental(tiny, 3)
    method = Watched(network(growing), **{**OPTIONS, "clip": clip})
    optimizers = OptimizerFactory(
        lambda groups: SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-3)
    )
    Trainer(method, benchmark, Settings(batch_size=20), optimizers, Buffer(Herding(60, 10))).fit()
    for task in (1, 2):
        old, new = benchmark.seen(task - 1), benchmark.classes(task)
        lengths = [
            sum(float(ends[task][c].norm()) for c in classes) / len(classes)
            for classes in (old, new)
        ]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)
        assert all(torch.equal(teachers[task][c], ends[task - 1][c]) for c in old), "the aligned"
    least = min(float(row.min()) for row in ends[2].values())
    assert (least >= 0) == clip
    assert not any(layer.bias.any() for layer in method.layers), "there is no bias"


def make_network(benchmark: Scenario) -> MLP:
    made = MLP(benchmark.shape, benchmark.n_classes, (16,))
    made.head = Linear(16, benchmark.n_classes, growing=True)
    return made


@pytest.mark.parametrize("reset", [True, False], ids=["fixed", "growing"])
def test_resumes_and_splits(reset: bool) -> None:
    options: dict[str, Any] = {} if reset else {"backbone": make_network}
    check_method(
        WA,
        OPTIONS,
        buffer=lambda: Herding(40, 10),
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
        settings={"epochs": 1, "reset_optimizer": reset},
        **options,
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_values_that_make_no_sense_are_refused(temperature: float) -> None:
    with pytest.raises(UserError, match=rf"^model\.temperature={temperature}: "):
        WA(network(False), temperature, True)


def test_another_head_is_refused() -> None:
    made = network(False)
    made.head = Cosine(16, 10)
    with pytest.raises(UserError, match="must be head=linear"):
        WA(made, 2.0, True)


def test_classes_may_come_again(tiny: Arrays) -> None:
    """In a blurry stream a class is old and of the task at once; its weights are the old ones."""
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        WA,
        OPTIONS,
        buffer=lambda: Herding(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
        shards=(2,),
        backbone=make_network,
    )
