"""Learning without forgetting: the softened responses, and the teacher that gave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.lwf import LwF
from perdure.models.memory import Memory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]


def move(method: LwF) -> None:
    """Make the network another than its teacher."""
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0], ids=str)
@pytest.mark.parametrize("task", [1, 3], ids=["second task", "fourth task"])
def test_loss_is_cross_entropy_plus_the_old_responses(
    make: Callable[..., Any], digits: Digits, task: int, temperature: float
) -> None:
    """Eq. 2 to 4: y'^(1/T) normalized is the softmax of the logits over T; −Σ y'_o log y'_n."""
    method = make(LwF, task=task, alpha=0.6, temperature=temperature)
    move(method)
    batch = digits(0, 12, 2 * task, 2 * task + 1)
    logits, old = method(batch.x), method.old(batch.x)
    n_old, n_seen = 2 * task, 2 * task + 2
    softened = [
        p ** (1 / temperature) / (p ** (1 / temperature)).sum(1, keepdim=True)
        for p in (old[:, :n_old].softmax(1), logits[:, :n_old].softmax(1))
    ]
    response = -(softened[0] * softened[1].log()).sum(1).mean()
    expected = F.cross_entropy(logits[:, :n_seen], batch.y) + 0.6 * response
    ours = method.loss(batch)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(ours, method.trainable()),
        torch.autograd.grad(expected, method.trainable()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_there_is_nothing_to_keep_in_the_first_task(
    make: Callable[..., Any], digits: Digits
) -> None:
    method, batch = make(LwF, task=0, alpha=9.0, temperature=2.0), digits(0, 9, 0, 1)
    assert torch.equal(method.loss(batch), F.cross_entropy(method(batch.x)[:, :2], batch.y))


def test_responses_equal_to_the_teacher_s_pull_nowhere(
    make: Callable[..., Any], digits: Digits
) -> None:
    """Before the network has moved, the distillation has no gradient."""
    method, batch = make(LwF, alpha=1.0, temperature=2.0), digits(0, 9, 2, 3)
    plain = F.cross_entropy(method(batch.x)[:, :4], batch.y)
    for a, b in zip(
        torch.autograd.grad(method.loss(batch), method.trainable()),
        torch.autograd.grad(plain, method.trainable()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_frozen_and_in_evaluation_mode(digits: Digits) -> None:
    network = ReducedResNet18((1, 28, 28), 10, width=2)
    method = LwF(network, 1.0, 2.0)
    method.task = Task(1, range(2, 4), range(4))
    before = {name: value.clone() for name, value in method.old.state_dict().items()}
    method.train()
    assert method.backbone.training
    assert not any(module.training for module in method.old.modules())
    trained = {id(p) for p in method.trainable()}
    assert trained == {id(p) for p in network.parameters()}
    loss: Tensor = method.loss(digits(0, 8, 2, 3))  # type: ignore[assignment]
    loss.backward()
    assert all(p.grad is None for p in method.old.parameters())
    for name, value in method.old.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: batch norm must not learn either"


def test_the_teacher_is_the_network_at_the_end_of_the_task_before(tiny: Arrays) -> None:
    snapshots: list[tuple[int, dict[str, Tensor]]] = []

    class Watched(LwF):
        def loss(self, batch: Batch, *replay: Batch) -> Tensor:
            state = {k: v.clone() for k, v in self.old.state_dict().items()}
            snapshots.append((self.task.index, state))
            loss: Tensor = super().loss(batch, *replay)  # type: ignore[assignment]
            return loss

        def after_task(self, data: Any, memory: Memory) -> None:
            super().after_task(data, memory)
            ends.append({k: v.clone() for k, v in self.backbone.state_dict().items()})

    torch.manual_seed(0)
    method = Watched(MLP((1, 28, 28), 10, (12,)), 1.0, 2.0)
    ends = [{k: v.clone() for k, v in method.backbone.state_dict().items()}]
    Trainer(method, ClassIncremental(tiny, 3), Settings(batch_size=60)).fit()
    assert {task for task, _ in snapshots} == {0, 1, 2}
    for task, state in snapshots:
        assert all(torch.equal(state[key], ends[task][key]) for key in state)
    assert not torch.equal(ends[1]["head.weight"], ends[2]["head.weight"])


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1.0, "temperature": 2.0}, {"alpha": 1.0, "temperature": 0.0}],
    ids=["alpha", "temperature"],
)
def test_values_that_make_no_sense_are_refused(
    make: Callable[..., Any], options: dict[str, float]
) -> None:
    with pytest.raises(UserError, match=r"model\.alpha=.*model\.temperature=.*above 0"):
        make(LwF, **options)


def test_old_classes_are_those_of_earlier_tasks_whatever_their_labels(
    make: Callable[..., Any], digits: Digits
) -> None:
    """With the head's outputs and the labels permuted alike the loss is the same."""
    method, batch = make(LwF, alpha=0.7, temperature=2.0), digits(0, 10, 2, 3)
    method.task = Task(1, range(2, 4), range(4))
    method.old.load_state_dict(make(LwF, alpha=0.7, temperature=2.0).old.state_dict())
    expected = method.loss(batch)
    order = torch.tensor([4, 1, 7, 2, 0, 3, 5, 6, 8, 9])  # label c becomes order[c]
    for network in (method.backbone, method.old):
        for p in (network.head.weight, network.head.bias):
            p.data = p.data.clone().index_copy_(0, order, p.data)
    past, own = Classes(order[:2].tolist()), Classes(order[2:4].tolist())
    method.task = Task(1, own, past | own, past=past)
    moved = Batch(batch.raw, order[batch.y], batch.transform)
    torch.testing.assert_close(method.loss(moved), expected)
