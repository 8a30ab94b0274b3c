"""PODNet: the loss with loops over stages, rows and columns; where new proxies start."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Proxy
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.backbones.small_conv import SmallConv
from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import ClassIncremental, Scenario
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.podnet import PODNet
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {"pod": 3.0, "flat": 1.0, "margin": 0.6, "nca": "paper"}
TASKS = [
    Task(0, Classes(range(3)), Classes(range(3))),
    Task(1, Classes(range(3, 5)), Classes(range(5))),
    Task(2, Classes(range(5, 6)), Classes(range(6))),
]
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mlp": lambda: MLP((1, 28, 28), 10, (16, 12)),
    "small-conv": lambda: SmallConv((1, 28, 28), 10, width=2),
    "resnet": lambda: ReducedResNet18((1, 28, 28), 10, width=2),
}


def network(kind: str = "mlp") -> Backbone:
    made = BACKBONES[kind]()
    made.head = Proxy(made.n_features, 10, growing=True, proxies=3)
    return made


def grown(last: int, kind: str = "mlp", **options: Any) -> PODNet:
    """In the task `last` of unequal ones, with a network other than its teacher."""
    torch.manual_seed(0)
    method = PODNet(network(kind), **{**OPTIONS, **options})
    for task in TASKS[: last + 1]:
        method.task = task
        method.backbone.grow(task.classes)
        method.grow(task)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.1 * torch.randn(p.shape))
        method.head.eta.fill_(4.0)
    return method.eval()


def pooled(h: Tensor) -> Tensor:
    """Of one example: the sums of squares of each row and column of each channel, in length 1."""
    h = h if h.dim() == 3 else h[:, None, None]
    width = [(h[c, i] ** 2).sum() for c in range(h.shape[0]) for i in range(h.shape[1])]
    height = [(h[c, :, j] ** 2).sum() for c in range(h.shape[0]) for j in range(h.shape[2])]
    sums = torch.stack([*width, *height])
    return sums / sums.norm()


@pytest.mark.parametrize(
    ("last", "kind"), [(0, "mlp"), (1, "mlp"), (2, "mlp"), (1, "small-conv"), (1, "resnet")]
)
def test_loss_is_the_paper_s(digits: Digits, last: int, kind: str) -> None:
    """Example by example; F = √(n_t / K_t) counts the new classes as seen."""
    method, task = grown(last, kind), TASKS[last]
    n, seen, old = 6, task.seen.stop, task.classes.start
    batch = digits(0, n, *task.seen)
    batch.scopes = ((n, range(seen)),)
    w = torch.cat([block.weight for block in method.head.blocks])
    w = w / w.norm(dim=2, keepdim=True)
    new_net, old_net = method.backbone, method.old.network
    expected = torch.zeros(())
    for x, y in zip(batch.x, batch.y.tolist(), strict=True):
        f, g = (net.features(x[None])[0] for net in (new_net, old_net))
        similar = w @ (f / f.norm())
        scores = 4 * (similar.softmax(1) * similar).sum(1)
        others = torch.stack([scores[i].exp() for i in range(seen) if i != y]).sum()
        nca = (-((scores[y] - 4 * 0.6).exp() / others).log()).clamp(min=0)
        expected = expected + nca / n
        if old:
            maps = [net.feature_maps(x[None]) for net in (new_net, old_net)]
            each = [(pooled(a[0]) - pooled(b[0])).norm() for a, b in zip(*maps, strict=True)]
            kept = 3 * torch.stack(each).mean() + 1 - (f @ g) / (f.norm() * g.norm())
            expected = expected + sqrt(seen / len(task.classes)) * kept / n
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    ours.backward()
    assert all(p.grad is None for p in method.old.parameters())


def test_where_nothing_has_moved_yet_the_gradient_is_finite(digits: Digits) -> None:
    """The distance has no derivative at 0, where every task begins."""
    method, batch = grown(1), digits(0, 9, 3, 4)
    batch.scopes = ((9, range(5)),)
    method.old.learn(method.backbone)
    method.loss(batch).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.trainable())


def test_the_released_loss_knows_no_margin(digits: Digits) -> None:
    batch = digits(0, 9, 0, 1, 2)
    batch.scopes = ((9, range(3)),)
    losses = {
        (nca, margin): float(grown(0, nca=nca, margin=margin).loss(batch).detach())  # type: ignore[union-attr]
        for nca in ("paper", "release")
        for margin in (0.0, 0.6)
    }
    assert losses["release", 0.0] == losses["release", 0.6]
    assert losses["paper", 0.6] > losses["paper", 0.0] + 1
    assert losses["release", 0.0] != losses["paper", 0.0]


def test_new_proxies_are_centers_of_features(digits: Digits) -> None:
    """In the average length of the old ones; with a proxy for each point, the points themselves."""
    method = grown(1)
    before = method.head.blocks[0].weight.clone()
    batch = digits(0, 6, 3, 4)
    rows = torch.cat([(batch.y == c).nonzero().squeeze(1)[:3] for c in (3, 4)])
    three = Batch(batch.raw[rows], batch.y[rows], batch.transform)
    assert torch.bincount(three.y).tolist() == [0, 0, 0, 3, 3]
    method.before_task(lambda n: [three.part(0, 2), three.part(2, 6)])
    assert torch.equal(method.head.blocks[0].weight, before)
    f = method.backbone.features(three.x)
    wanted = f / f.norm(dim=1, keepdim=True) * before.norm(dim=2).mean()
    for proxies, label in zip(method.head.blocks[1].weight, (3, 4), strict=True):
        points = wanted[three.y == label]
        order = [int((points - proxy).norm(dim=1).argmin()) for proxy in proxies]
        assert sorted(order) == [0, 1, 2]
        torch.testing.assert_close(proxies, points[order])


class Watched(PODNet):
    """Notes the weights at each step, by task and phase."""

    def loss(self, batch: Batch, *replay: Batch) -> Any:
        seen = self.__dict__.setdefault("states", {})
        state = {name: v.detach().clone() for name, v in self.backbone.named_parameters()}
        seen.setdefault((self.task.index, self.task.phase), []).append(state)
        return super().loss(batch, *replay)


def test_what_moves_in_which_phase(tiny: Arrays) -> None:
    """Old proxies stay in the main phase; the network stays in the balanced one."""
    torch.manual_seed(0)
    method = Watched(network(), **{**OPTIONS, "nca": "release"}, finetune_epochs=2, finetune_lr=0.1)
    optimizer = OptimizerFactory(lambda g: SGD(g, lr=0.1, momentum=0.9, weight_decay=0.01))
    benchmark, settings = ClassIncremental(tiny, 3), Settings(batch_size=10)
    Trainer(method, benchmark, settings, optimizer, Buffer(Herding(30, 10))).fit()
    states = method.__dict__["states"]
    assert set(states) == {(t, "main") for t in range(3)} | {(t, "balanced") for t in (1, 2)}
    for (task, phase), noted in states.items():
        for name, first in noted[0].items():
            block = int(name.split(".")[2]) if "blocks" in name else None
            of_task = block is None or block == task
            moves = of_task if phase == "main" else "head" in name
            assert torch.equal(first, noted[-1][name]) != moves, (task, phase, name)


def test_the_scale_does_not_fall_to_zero_where_that_would_be_the_best(tiny: Arrays) -> None:
    """Two classes in a task: below 0 the scores would be ranked the wrong way round."""
    torch.manual_seed(0)
    method = PODNet(network(), **OPTIONS)
    optimizer = OptimizerFactory(lambda g: SGD(g, lr=0.1))
    benchmark, settings = ClassIncremental(tiny, 5), Settings(batch_size=10, stop_after=1)
    result = Trainer(method, benchmark, settings, optimizer, Buffer(Herding(30, 10))).fit()
    assert float(method.head.eta.detach()) >= 1
    assert result["accuracy_matrix"]["task_il"][0][0] > 0.9


def make_network(benchmark: Scenario) -> Backbone:
    made = MLP(benchmark.shape, benchmark.n_classes, (16,))
    made.head = Proxy(16, benchmark.n_classes, growing=True, proxies=3)
    return made


@pytest.mark.parametrize("nca", ["paper", "release"])
def test_resumes_and_splits(nca: str) -> None:
    check_method(
        PODNet,
        {**OPTIONS, "nca": nca, "finetune_epochs": int(nca == "paper")},
        buffer=lambda: Herding(40, 10),
        backbone=make_network,
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
        settings={"epochs": 1, "reset_optimizer": nca == "paper"},
    )


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("pod", -1.0, "0 or more"),
        ("flat", float("nan"), "0 or more"),
        ("margin", -0.1, "0 or more"),
        ("nca", "peer", "must be paper or release"),
        ("finetune_epochs", -1, "0 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any, accepted: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: .*{accepted}"):
        PODNet(network(), **{**OPTIONS, key: value})


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"^head: .*must be head=growing-proxy$"):
        PODNet(MLP((1, 28, 28), 10, (16,)), **OPTIONS)


def test_classes_may_come_again(tiny: Arrays) -> None:
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        PODNet,
        {**OPTIONS, "finetune_epochs": 1},
        buffer=lambda: Herding(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
        shards=(2,),
        backbone=make_network,
    )
