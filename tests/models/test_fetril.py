"""FeTrIL: pseudo-features by hand, their means, which class they come from, and the loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.models.base import Task
from perdure.models.fetril import FeTrIL
from perdure.models.memory import Memory
from perdure.models.phase import MAIN

Digits = Callable[..., Batch]


def begun(tasks: list[Batch], classes: list[tuple[int, ...]]) -> FeTrIL:
    """In the main phase of the last task."""
    torch.manual_seed(0)
    method = FeTrIL(MLP((1, 28, 28), 10, (12,)), 0)
    seen: tuple[int, ...] = ()
    for t, (batch, labels) in enumerate(zip(tasks, classes, strict=True)):
        seen += labels
        method.task = Task(t, Classes(labels), Classes(seen))
        parts = [batch.part(i, i + 11) for i in range(0, len(batch), 11)]
        method.before_phase(MAIN, lambda n, parts=parts: parts, Memory(None, batch.transform))  # type: ignore[misc]
    return method


@pytest.fixture
def three(digits: Digits) -> tuple[FeTrIL, list[Batch]]:
    classes = [(0, 6), (2, 3), (4, 5, 9)]
    tasks = [digits(0, 60, *labels) for labels in classes]
    return begun(tasks, classes), tasks


def mean_of(method: FeTrIL, tasks: list[Batch], c: int) -> Tensor:
    """Of the features of class c, an example at a time."""
    rows = [
        method.backbone.features(x[None])[0].detach()
        for batch in tasks
        for x, y in zip(batch.x, batch.y.tolist(), strict=True)
        if y == c
    ]
    return torch.stack(rows).mean(0)


def test_a_pseudo_class_has_the_mean_of_the_old_class(three: tuple[FeTrIL, list[Batch]]) -> None:
    method, tasks = three
    new = tasks[2]
    for p in (0, 6, 2, 3):
        means = {n: mean_of(method, tasks, n) for n in (4, 5, 9)}
        old = mean_of(method, tasks, p)
        source = max(means, key=lambda n: F.cosine_similarity(means[n], old, dim=0).item())
        assert method.source[p].item() == source
        f = method.features(new)[new.y == source]
        moved = method.moved(f, method.task.past)[:, method.task.past.index(p)]
        torch.testing.assert_close(moved, f - means[source] + old)
        torch.testing.assert_close(moved.mean(0), old)


def test_the_loss_is_over_real_and_pseudo_features(three: tuple[FeTrIL, list[Batch]]) -> None:
    """Over the classes seen, as many pseudo-features of an old class as its source has examples."""
    method, tasks = three
    batch, seen = tasks[2].part(0, 30), [0, 2, 3, 4, 5, 6, 9]
    batch = Batch(batch.raw, batch.y, batch.transform)
    rows, labels = [], []
    for x, y in zip(batch.x, batch.y.tolist(), strict=True):
        f = method.backbone.features(x[None])[0]
        rows.append(f)
        labels.append(seen.index(y))
        for p in (0, 2, 3, 6):
            if method.source[p].item() == y:
                rows.append(f - mean_of(method, tasks, y) + mean_of(method, tasks, p))
                labels.append(seen.index(p))
    assert len(rows) > len(batch), "some old class has its source in the batch"
    scores = method.backbone.head(torch.stack(rows))[:, seen]
    expected = F.cross_entropy(scores, torch.tensor(labels))
    found = method.loss(batch)
    torch.testing.assert_close(found, expected)
    parts = [method.loss(batch.part(0, 9)), method.loss(batch.part(9, 30))]
    torch.testing.assert_close(sum(parts), expected)  # type: ignore[arg-type]


def test_the_first_task_has_real_features_alone(digits: Digits) -> None:
    batch = digits(0, 40, 3, 8)
    method = begun([batch], [(3, 8)])
    scores = method.backbone(batch.x)[:, [3, 8]]
    expected = F.cross_entropy(scores, (batch.y == 8).long())
    torch.testing.assert_close(method.loss(batch), expected)


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_head_alone_moves(base_epochs: int, make_trainer: MakeTrainer) -> None:
    seen: list[tuple[str, Tensor, Tensor]] = []

    class Watched(FeTrIL):
        def loss(self, batch: Batch, *replay: Batch):  # type: ignore[no-untyped-def]
            body = self.backbone.get_parameter("layers.0.weight").detach().clone()
            head = self.backbone.get_parameter("head.weight").detach().clone()
            seen.append((self.task.phase, body, head))
            return super().loss(batch, *replay)

    def decaying(groups):  # type: ignore[no-untyped-def]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)

    trainer = make_trainer(lambda n: Watched(n, base_epochs), optimizer=decaying, buffer=None)
    trainer.fit()
    main = [step for step in seen if step[0] == "main"]
    assert len(seen) > len(main) if base_epochs else len(seen) == len(main)
    assert all(torch.equal(main[0][1], body) for _, body, _ in main)
    assert not torch.equal(main[0][2], main[-1][2])
    assert base_epochs == 0 or not torch.equal(seen[0][1], main[0][1])


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_contract_of_a_method(base_epochs: int) -> None:
    check_method(FeTrIL, {"base_epochs": base_epochs})
