"""HAL: the step, the anchors and the mean features against loops over examples and classes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor, nn

from perdure.backbones.mlp import MLP
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.anchors import finetuned, learned
from perdure.models.base import StepOutput, Task
from perdure.models.er import ER
from perdure.models.hal import HAL

Digits = Callable[..., Batch]
Make = Callable[..., Any]
OPTIONS = {
    "strength": 0.3, "beta": 0.6, "gamma": 0.2, "anchor_steps": 3, "anchor_lr": 0.1,
    "finetune_epochs": 1, "finetune_batch_size": 10,
}  # fmt: skip


def hal(make: Make, lr: float = 0.1, **options: Any) -> Any:
    method = make(HAL, **{**OPTIONS, **options})
    method.grow(method.task)
    method.task.lr = lr
    return method


def loss_of(method: Any, batch: Batch, past: Batch) -> Tensor:
    output = method.loss(batch, past)
    assert isinstance(output, StepOutput)
    assert output.loss is not None
    return output.loss


def test_the_step_is_the_sum_of_two_gradients(make: Make, digits: Digits) -> None:
    """As the authors take it: a step on the examples, the anchors' outputs there, back to θ, and
    the gradient of their distance on top of the first."""
    method, batch, past = hal(make), digits(0, 10, 2, 3), digits(0, 8, 0, 1)
    anchors = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    method.anchors = anchors
    network = deepcopy(method.backbone)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x, y = torch.cat((batch.x, past.x)), torch.cat((batch.y, past.y))
    start = [p.detach().clone() for p in network.parameters()]
    F.cross_entropy(network(x), y).backward()
    optimizer.step()
    target = network(anchors).detach()
    with torch.no_grad():
        for p, value in zip(network.parameters(), start, strict=True):
            p.copy_(value)
    (0.3 * ((network(anchors) - target) ** 2).mean()).backward()
    found = torch.autograd.grad(loss_of(method, batch, past), method.trainable())
    plain = torch.autograd.grad(F.cross_entropy(method(x), y), method.trainable())
    for p, gradient, first in zip(network.parameters(), found, plain, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)
        assert (gradient - first).abs().max() > 1e-4, "the anchors count"


def test_mean_features_of_each_class(make: Make, digits: Digits) -> None:
    """φ_y ← β φ_y + (1 − β) mean f(B_y), of the new examples alone; a class without any stays."""
    method = hal(make)
    expected = {2: torch.zeros(12), 3: torch.zeros(12)}
    for batch in (digits(0, 9, 2, 3), digits(0, 4, 3), digits(9, 20, 2, 3)):
        for y in batch.y.unique().tolist():
            mean = method.backbone.features(batch.x[batch.y == y]).mean(0).detach()
            expected[y] = 0.6 * expected[y] + 0.4 * mean
        output = method.loss(batch, digits(20, 26, 2, 3))
        assert not method.phi.any() or len(batch.y) < 12, "loss writes nothing"
        method.after_step({}, output.sums)
    torch.testing.assert_close(method.phi, torch.stack([expected[2], expected[3]]))
    method.grow(Task(2, range(4, 6), range(6)))
    assert not method.phi.any(), "a task begins anew"


def ascent(network: nn.Module, later: nn.Module, e: Tensor, y: int, phi: Tensor) -> Tensor:
    """One anchor alone, by `torch.optim.SGD` on the negative objective."""
    e = e.clone().requires_grad_()
    optimizer = torch.optim.SGD([e], 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        label = torch.tensor([y])
        loss = -F.cross_entropy(later(e[None]), label) + F.cross_entropy(network(e[None]), label)
        loss = loss + 0.2 * ((network.features(e[None])[0] - phi) ** 2).sum()
        loss.backward()
        optimizer.step()
    return e.detach()


def test_anchors_are_learned_one_by_one_as_all_at_once(digits: Digits) -> None:
    torch.manual_seed(0)
    network, later = MLP((1, 28, 28), 10, (12,)), MLP((1, 28, 28), 10, (12,))
    start, phi = torch.rand(2, 1, 28, 28), torch.rand(2, 12)
    found = learned(network, later, start, torch.tensor([2, 3]), phi, 0.2, 4, 0.1)
    for i, y in enumerate((2, 3)):
        expected = ascent(network, later, start[i], y, phi[i])
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-6)
        assert (found[i] - start[i]).abs().max() > 1e-3


def test_fine_tuning_is_sgd_on_a_copy(digits: Digits) -> None:
    torch.manual_seed(0)
    network, stored = MLP((1, 28, 28), 10, (12,)), [digits(0, 6), digits(6, 10)]
    before = [p.detach().clone() for p in network.parameters()]
    # One batch with all of them: the order does not matter.
    later = finetuned(network, stored, 2, 10, 0.1)
    assert all(map(torch.equal, network.parameters(), before))
    whole, optimizer = digits(0, 10), torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(whole.x), whole.y).backward()
        optimizer.step()
    for p, q in zip(later.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach())
    torch.manual_seed(0)
    small = finetuned(network, stored, 1, 3, 0.1)
    torch.manual_seed(0)
    order = torch.randperm(10)
    for rows in (order[:3], order[3:6], order[6:9], order[9:]):
        optimizer.zero_grad()
        F.cross_entropy(network(whole.x[rows]), whole.y[rows]).backward()
        optimizer.step()
    for p, q in zip(small.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach())


class Normed(SmallConv):
    """A network with batch statistics."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.norm = nn.BatchNorm2d(1)

    def features(self, x: Tensor) -> Tensor:
        return super().features(self.norm(x))


def test_anchors_leave_batch_statistics_alone(digits: Digits) -> None:
    torch.manual_seed(0)
    method = HAL(Normed((1, 28, 28), 10), **OPTIONS)  # type: ignore[arg-type]
    method.task = Task(1, range(2, 4), range(4), lr=0.1)
    method.grow(method.task)
    batch, past = digits(0, 10, 2, 3), digits(0, 6, 0, 1)
    twin = deepcopy(method)
    method.anchors = torch.rand(2, 1, 28, 28)
    with_anchors, without = (loss_of(each, batch, past).item() for each in (method, twin))
    assert with_anchors > without
    assert all(map(torch.equal, method.buffers(), twin.buffers()))
    assert method.backbone.norm.training


def test_a_task_leaves_an_anchor_of_each_class(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lambda network: HAL(network, **OPTIONS), iterations=5)
    trainer.fit()
    anchors = trainer.method.anchors
    assert anchors.shape == (10, 1, 28, 28)
    assert len(anchors.flatten(1).unique(dim=0)) == 10


@pytest.mark.parametrize("changes", [{"stop_after": 1}, {}], ids=["first task", "no strength"])
def test_without_anchors_it_is_er_to_the_bit(
    make_trainer: MakeTrainer, changes: dict[str, Any]
) -> None:
    ends, strength = [], 0.3 if changes else 0.0
    options = {**OPTIONS, "strength": strength}
    for kind in (ER, lambda network: HAL(network, **options)):
        trainer = make_trainer(kind, iterations=8, **changes)
        trainer.fit()
        ends.append([p.detach().clone() for p in trainer.method.trainable()])
    assert all(map(torch.equal, *ends))


def test_the_contract() -> None:
    check_method(HAL, OPTIONS)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"beta": 1.5}, r"^model\.beta=1\.5: weighs a mean; must be from 0 to 1$"),
        ({"strength": -1.0}, r"^model\.strength=-1\.0: out of range; must be 0 or more$"),
        ({"finetune_batch_size": 0}, r"^model\.finetune_batch_size=0: .* must be 1 or more$"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Make, option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        hal(make, **option)
