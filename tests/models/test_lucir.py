"""LUCIR: three losses, imprinted and fixed weights, the balanced phase."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import Cosine
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
from perdure.models.lucir import LUCIR
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {"less_forget": 5.0, "margin": 0.5, "hardest": 2}
TASKS = [
    Task(0, Classes(range(3)), Classes(range(3))),
    Task(1, Classes(range(3, 5)), Classes(range(5))),
    Task(2, Classes(range(5, 6)), Classes(range(6))),
]


def network(shape: tuple[int, int, int] = (1, 28, 28), n_classes: int = 10) -> MLP:
    made = MLP(shape, n_classes, (16,))
    made.head = Cosine(16, n_classes, growing=True)
    return made


def grown(last: int, **options: Any) -> LUCIR:
    """In the task `last` of unequal ones, with a network other than its teacher."""
    torch.manual_seed(0)
    method = LUCIR(network(), **{**OPTIONS, **options})
    for task in TASKS[: last + 1]:
        method.task = task
        method.backbone.grow(task.classes)
        method.grow(task)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.3 * torch.randn(p.shape))
        method.head.eta.fill_(4.0)
    return method


@pytest.mark.parametrize("last", [0, 1, 2])
def test_loss_is_the_paper_s(digits: Digits, last: int) -> None:
    """Example by example. λ of the second task is that of its classes, not of the task before."""
    method, task = grown(last), TASKS[last]
    seen, old = task.seen.stop, task.classes.start
    batch = digits(0, 20, *task.seen)
    batch.scopes = ((20, range(seen)),)
    w = torch.cat([block.weight for block in method.head.blocks]).double()
    w = w / w.norm(dim=1, keepdim=True)
    ce = less_forget = margin = torch.zeros((), dtype=torch.float64)
    n_old = sum(label < old for label in batch.y.tolist())
    for x, y in zip(batch.x, batch.y.tolist(), strict=True):
        f, g = (net.features(x[None])[0].double() for net in (method.backbone, method.old.network))
        cosines = w @ (f / f.norm())
        ce = ce + F.cross_entropy(method.head.eta * cosines[None], torch.tensor([y]))
        less_forget = less_forget + 1 - (f @ g) / (f.norm() * g.norm())
        if y < old:
            hardest = sorted((float(c), i) for i, c in enumerate(cosines.tolist()) if i >= old)[-2:]
            for _, k in hardest:
                margin = margin + (0.5 - cosines[y] + cosines[k]).clamp(min=0)
    expected = ce / 20
    if old:
        expected = expected + 5 * sqrt(old / len(task.classes)) * less_forget / 20 + margin / n_old
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, method.trainable()),
        torch.autograd.grad(expected, method.trainable()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_batch_without_exemplars_has_no_margin_loss(digits: Digits) -> None:
    method = grown(1)
    batch = digits(0, 9, 3, 4)
    cosines = method.head.cosines(method.backbone.features(batch.x))
    assert not method._margin_loss(batch, cosines).any()


def test_new_weights_are_imprinted(digits: Digits) -> None:
    """The mean direction of a class's features, in the average length of the old weights."""
    method = grown(1)
    before = method.head.blocks[0].weight.clone()
    batch = digits(0, 30, 3, 4)
    method.before_task(lambda n: [batch.part(0, 11), batch.part(11, 30)])
    assert torch.equal(method.head.blocks[0].weight, before)
    with torch.no_grad():
        f = F.normalize(method.backbone.features(batch.x), dim=1)
    length = before.norm(dim=1).mean()
    for row, label in zip(method.head.blocks[1].weight, (3, 4), strict=True):
        mean = f[batch.y == label].mean(0)
        torch.testing.assert_close(row, mean / mean.norm() * length)


class Watched(LUCIR):
    """Notes the weights at each step, by task and phase."""

    def loss(self, batch: Batch, *replay: Batch) -> Any:
        seen = self.__dict__.setdefault("states", {})
        state = {name: v.detach().clone() for name, v in self.backbone.named_parameters()}
        seen.setdefault((self.task.index, self.task.phase), []).append((state, batch.y.clone()))
        return super().loss(batch, *replay)


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "kept"])
def test_what_moves_in_which_phase(tiny: Arrays, reset: bool) -> None:
    """Whatever momentum and weight decay: old weights stay in the main phase, the network after."""
    torch.manual_seed(0)
    benchmark = ClassIncremental(tiny, 3)
    method = Watched(network(), **OPTIONS, finetune_epochs=2, finetune_lr=0.1)
    optimizer = OptimizerFactory(lambda g: SGD(g, lr=0.1, momentum=0.9, weight_decay=0.01))
    settings = Settings(batch_size=10, reset_optimizer=reset)
    Trainer(method, benchmark, settings, optimizer, Buffer(Herding(30, 10))).fit()
    states = method.__dict__["states"]
    assert set(states) == {(t, "main") for t in range(3)} | {(t, "balanced") for t in (1, 2)}
    for (task, phase), noted in states.items():
        (first, _), (last, _) = noted[0], noted[-1]
        for name in first:
            block = int(name.split(".")[2]) if "blocks" in name else None
            of_task = block is None or block == task
            moves = of_task if phase == "main" else "head" in name
            assert torch.equal(first[name], last[name]) != moves, (task, phase, name)
    drawn = torch.cat([y for _, y in states[2, "balanced"]])
    counts = torch.bincount(drawn)
    assert (counts == counts[0]).all(), "as many exemplars of each class"


def make_network(benchmark: Scenario) -> MLP:
    return network(benchmark.shape, benchmark.n_classes)


@pytest.mark.parametrize("epochs", [0, 1], ids=["plain", "fine-tuned"])
def test_resumes_and_splits(epochs: int) -> None:
    options = {**OPTIONS, "finetune_epochs": epochs}
    settings = {"epochs": 1, "reset_optimizer": not epochs}
    check_method(
        LUCIR,
        options,
        buffer=lambda: Herding(40, 10),
        backbone=make_network,
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
        settings=settings,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1.0}, r"model\.margin=-1\.0: .*0 or more"),
        ({"less_forget": float("nan")}, r"model\.less_forget=nan"),
        ({"hardest": 0}, r"model\.hardest=0: .*1 or more"),
    ],
    ids=["margin", "less_forget", "hardest"],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LUCIR(network(), **{**OPTIONS, **options})


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match="must be head=growing-cosine"):
        LUCIR(MLP((1, 28, 28), 10, (16,)), **OPTIONS)


def test_classes_may_come_again(tiny: Arrays) -> None:
    """In a blurry stream a class is old and of the task at once; its weights are the old ones."""
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        LUCIR,
        {**OPTIONS, "finetune_epochs": 1},
        buffer=lambda: Herding(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
        shards=(2,),
        backbone=make_network,
    )
