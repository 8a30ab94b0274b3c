"""X-DER: the loss in loops, logits that are put in place of stored ones, how often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import Linear
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.random_exemplars import RandomExemplars
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.views import strong_view
from perdure.errors import UserError
from perdure.models.base import StepOutput, Task
from perdure.models.contrastive import supervised_contrastive
from perdure.models.distillation import similarity_distance
from perdure.models.memory import Memory
from perdure.models.transplant import transplant
from perdure.models.xder import XDER
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {
    "alpha": 0.3,
    "beta": 0.8,
    "gamma": 0.85,
    "contrastive": 0.0,
    "temperature": 5.0,
    "simclr_num_aug": 2,
    "contrasted": 8,
    "crop": 0.6,
    "flip": False,
    "eta": 0.5,
    "margin": 0.3,
    "past_constraint": True,
    "past_future_strength": 0.0,
}
PARTS = [range(3), range(3, 5), range(5, 6), range(6, 10)]


def grown(last: int, **options: Any) -> XDER:
    torch.manual_seed(0)
    method = XDER(MLP((1, 28, 28), 10, (16,)), **{**OPTIONS, **options})
    for index, classes in enumerate(PARTS[: last + 1]):
        seen = Classes(range(classes.stop))
        method.task = Task(index, Classes(classes), seen, n_tasks=4)
        method.grow(method.task)
    return method


def drawn(digits: Digits, start: int, n: int, last: int, updates: float = 0) -> Batch:
    """Examples of earlier tasks as they come from the memory."""
    batch = digits(start, start + n, *range(PARTS[last].start))
    n = len(batch)
    logits = 2 * torch.randn(n, 10, generator=torch.Generator().manual_seed(start))
    stored = {"logits": logits, "updates": torch.full((n,), updates)}
    stored["index"] = torch.arange(start, start + n)
    return Batch(batch.raw, batch.y, batch.transform, None, stored)


def cross_entropy(z: Tensor, y: Tensor, classes: range) -> Tensor:
    each = [row[list(classes)].exp().sum().log() - row[c] for row, c in zip(z, y, strict=True)]
    return torch.stack(each).mean()


@pytest.mark.parametrize("last", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("contrastive", "strength"), [(0.0, 0.0), (0.4, 0.0), (0.4, 7.0), (0.0, 7.0)]
)
def test_loss_is_the_paper_s(
    digits: Digits, last: int, contrastive: float, strength: float
) -> None:
    method, now = (
        grown(last, contrastive=contrastive, past_future_strength=strength),
        PARTS[last],
    )
    batch = digits(0, 10, *now)
    draws = [drawn(digits, 0, 9, last), drawn(digits, 4, 7, last), drawn(digits, 20, 8, last)]
    if not last:
        draws = [Batch(batch.raw[:0], batch.y[:0], batch.transform) for _ in draws]
    first, second, third = draws
    z = method.backbone(batch.x)
    expected, parts = cross_entropy(z, batch.y, now), [(z, batch.y)]
    if last:
        a, b = method.backbone(first.x), method.backbone(second.x)
        expected = expected + 0.3 * ((a - first["logits"]) ** 2).sum() / (9 * 10)
        expected = expected + 0.8 * cross_entropy(b, second.y, range(now.start))
        parts += [(a, first.y), (b, second.y)]
        p = z[:, : now.stop].softmax(1)
        behind = [row[: now.start].max().detach() + 0.3 - row[now.start :].max() for row in p]
        above = [value for value in behind if value > 0]
        expected = expected + 0.5 * torch.stack(above).mean()
    if last < 3:
        pairs = [pair for scores, y in parts for pair in zip(scores, y.tolist(), strict=True)]
        heads = [next(part for part in PARTS if c in part) for _, c in pairs]
        excess = [
            row[now.stop :].max() + 0.3 - row[list(head)].max()
            for (row, _), head in zip(pairs, heads, strict=True)
        ]
        above = [value for value in excess if value > 0]
        expected = expected + 0.5 * torch.stack(above).mean()
    if last < 3 and (contrastive or strength):
        torch.manual_seed(5)
        both = batch + third
        views = [both.transform(strong_view(both.raw, 0.6, False), None) for _ in range(2)]
        scores, y = method.backbone(torch.cat(views)), torch.cat([both.y, both.y])
        slices = [c.tolist() for c in torch.arange(now.stop, 10).tensor_split(3 - last)]
        for c in slices:
            units = scores[:, c] / scores[:, c].norm(dim=1, keepdim=True)
            each = supervised_contrastive(units, y, 5.0)
            expected = expected + contrastive * each / len(slices)
            for view in scores.split(len(both)) if last else ():
                kept = similarity_distance(view[len(batch) :, c], third["logits"][:, c])
                expected = expected + strength * kept / (2 * len(slices))
    torch.manual_seed(5)
    out = method.loss(batch, *draws[: 3 if contrastive or strength else 2])
    assert isinstance(out, StepOutput)
    assert out.loss is not None
    torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(out.loss, method.trainable()),
        torch.autograd.grad(expected, method.trainable()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert set(out.rewrite) == ({0, 1} if last else set())


def test_without_the_margin_to_the_past_the_rest_stays(digits: Digits) -> None:
    batch, first, second = digits(0, 10, 5), drawn(digits, 0, 9, 2), drawn(digits, 4, 7, 2)
    losses = [grown(2, past_constraint=on).loss(batch, first, second) for on in (True, False)]
    probability = grown(2)(batch.x)[:, :6].softmax(1)
    behind = (probability[:, :5].amax(1) + 0.3 - probability[:, 5]).relu()
    wanted = 0.5 * behind[behind > 0].mean()
    with_past, without = (out.loss for out in losses)  # type: ignore[union-attr]
    torch.testing.assert_close(with_past - without, wanted)  # type: ignore[operator]


def test_a_first_draw_is_rewritten_and_later_ones_rarely(digits: Digits) -> None:
    """With probability 1 / k at the k-th draw of a task; past logits stay."""
    method, batch = grown(2), digits(0, 10, 5)
    for k in (1, 2, 5):
        accepted = []
        for seed in range(60):
            torch.manual_seed(seed)
            first, second = (drawn(digits, start, 40, 2, k - 1) for start in (0, 7))
            out = method.loss(batch, first, second)
            assert isinstance(out, StepOutput)
            for draw, fields in zip((first, second), out.rewrite.values(), strict=True):
                assert (fields["updates"] == k).all()
                assert torch.equal(fields["logits"][:, :5], draw["logits"][:, :5])
                new = torch.arange(10) >= 5
                now = transplant(
                    draw["logits"], method(draw.x).detach(), draw.y, new, OPTIONS["gamma"]
                )
                changed = (fields["logits"] != draw["logits"]).any(1)
                torch.testing.assert_close(fields["logits"][changed], now[changed])
                accepted.append(changed)
            # Examples 7 … 39 are in both draws.
            assert torch.equal(accepted[-2][7:], accepted[-1][:33])
        share = float(torch.cat(accepted).float().mean())
        assert share == pytest.approx(1 / k, abs=0.02)


def test_what_is_stored_at_a_task_s_end(tiny: Arrays) -> None:
    """Everything stored before gets this network's later logits, new examples bounded past ones."""
    before: dict[int, dict[str, Tensor]] = {}
    after: dict[int, tuple[dict[str, Tensor], XDER]] = {}

    class Watched(XDER):
        def after_task(self, data: Any, memory: Memory) -> None:
            contents = memory.buffer.contents() if len(memory) else {}  # type: ignore[union-attr]
            before[self.task.index] = {key: value.clone() for key, value in contents.items()}
            super().after_task(data, memory)
            contents = memory.buffer.contents() if len(memory) else {}  # type: ignore[union-attr]
            after[self.task.index] = ({k: v.clone() for k, v in contents.items()}, self)
            for batch in memory.batches(1000):
                old, n = before[self.task.index], self.task.classes.start
                new = torch.arange(10) >= n
                wanted = transplant(old["logits"], self(batch.x).detach(), batch.y, new, 0.85)
                torch.testing.assert_close(batch["logits"], wanted, rtol=1e-4, atol=1e-5)
                assert old["updates"].any()
                assert not batch["updates"].any()

        def before_evaluation(self, memory: Memory, data: Any) -> None:
            for batch in memory.batches(1000):
                is_new = self.task.classes.mask(batch.y)
                past = torch.arange(10) < self.task.classes.start
                z = self(batch.x)
                wanted = transplant(z, z, batch.y, past, 0.85)
                torch.testing.assert_close(
                    batch["logits"][is_new], wanted[is_new], rtol=1e-4, atol=1e-5
                )
                measured.append(int(is_new.sum()))

    measured: list[int] = []
    torch.manual_seed(0)
    method = Watched(MLP((1, 28, 28), 10, (16,)), **OPTIONS)
    optimizers = OptimizerFactory(lambda groups: SGD(groups, lr=0.05))
    buffer = Buffer(RandomExemplars(60, 10))
    Trainer(method, ClassIncremental(tiny, 5), Settings(batch_size=20), optimizers, buffer).fit()
    assert set(after) == set(range(5))
    assert all(measured)
    assert len(measured) == 5


@pytest.mark.parametrize("contrastive", [0.0, 0.1])
def test_resumes(contrastive: float) -> None:
    check_method(
        XDER,
        {**OPTIONS, "contrastive": contrastive, "past_future_strength": 10 * contrastive},
        buffer=lambda: RandomExemplars(40, 10),
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
        settings={"epochs": 1},
    )


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("alpha", -1.0, "0 or more"),
        ("margin", float("nan"), "0 or more"),
        ("simclr_num_aug", 0, "1 or more"),
        ("temperature", 0.0, "above 0"),
        ("crop", 1.5, "at most 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any, accepted: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: .*{accepted}"):
        XDER(MLP((1, 28, 28), 10, (16,)), **{**OPTIONS, key: value})


def test_a_growing_head_is_refused() -> None:
    network = MLP((1, 28, 28), 10, (16,))
    network.head = Linear(16, 10, growing=True)
    with pytest.raises(UserError, match=r"^head\.growing=true: .*must be false$"):
        XDER(network, **OPTIONS)


def test_classes_may_come_again(tiny: Arrays) -> None:
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        XDER,
        {**OPTIONS, "contrastive": 0.1},
        buffer=lambda: RandomExemplars(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
    )
