"""MIR: which candidates are chosen, and that choosing leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor, nn

from perdure.backbones.mlp import MLP
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method
from perdure.models.mir import MIR
from perdure.models.replay import Replay

Digits = Callable[..., Batch]
Make = Callable[..., Any]


def method_with(make: Make, lr: float = 0.1, **options: Any) -> Any:
    method = make(MIR, **{"candidates": 50, "top": 10, **options})
    method.task.lr = lr
    return method


def test_scores_are_those_of_a_copy_that_took_the_step(make: Make, digits: Digits) -> None:
    """Against a copied network and `torch.optim.SGD`."""
    method, batch, candidates = method_with(make), digits(0, 10, 2, 3), digits(0, 50, 0, 1)
    copy = deepcopy(method.backbone)
    before = F.cross_entropy(copy(candidates.x), candidates.y, reduction="none")
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
    F.cross_entropy(copy(batch.x), batch.y).backward()
    optimizer.step()
    after = F.cross_entropy(copy(candidates.x), candidates.y, reduction="none")
    found = method.interference(batch.cross_entropy(method(batch.x)), candidates)
    torch.testing.assert_close(found, (after - before).detach(), rtol=1e-4, atol=1e-6)
    assert found.std() > 0


def test_a_linear_model_by_hand(digits: Digits) -> None:
    """The virtual step of softmax regression: W − α (p − y)ᵀ x / n, b − α mean(p − y)."""
    torch.manual_seed(0)
    method = MIR(MLP((1, 28, 28), 10, ()), 30, 4)
    method.task = type("Now", (), {"lr": 0.5})()
    batch, candidates = digits(0, 8, 2, 3), digits(0, 30, 0, 1, 2)
    head = method.backbone.head
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    x, past = batch.x.flatten(1).double(), candidates.x.flatten(1).double()
    error = torch.softmax(x @ weight.T + bias, 1) - F.one_hot(batch.y, 10)
    stepped = past @ (weight - 0.5 * error.T @ x / 8).T + bias - 0.5 * error.mean(0)

    def losses(z: Tensor) -> Tensor:
        return torch.logsumexp(z, 1) - z.gather(1, candidates.y[:, None]).squeeze(1)

    growth = losses(stepped) - losses(past @ weight.T + bias)
    loss = batch.cross_entropy(method(batch.x))
    found = method.interference(loss, candidates)
    torch.testing.assert_close(found.double(), growth, rtol=1e-3, atol=1e-5)
    worst = growth.argsort(descending=True)[:4]
    expected = loss + F.cross_entropy(method(candidates.x[worst]), candidates.y[worst])
    torch.testing.assert_close(method.loss(batch, candidates), expected)


class Summed(Method):
    """ER with the sum of both means, on the same draws."""

    replays = (Replay(10),)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        loss = batch.cross_entropy(self(batch.x))
        return loss + replay[0].cross_entropy(self(replay[0].x)) if replay[0] else loss


def test_with_all_candidates_replayed_it_is_er_with_summed_losses(make_trainer: Any) -> None:
    ends = []
    for kind in (Summed, lambda backbone: MIR(backbone, 10, 10)):
        trainer = make_trainer(kind, iterations=20)
        trainer.fit()
        ends.append(torch.cat([p.detach().flatten() for p in trainer.method.trainable()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_the_empty_memory_is_plain_training(make: Make, digits: Digits) -> None:
    method, batch = method_with(make), digits(0, 10)
    assert torch.equal(method.loss(batch, digits(0, 0)), batch.cross_entropy(method(batch.x)))


class Dropping(SmallConv):
    """A network with batch statistics and with random numbers."""

    def __init__(self, shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(shape, n_classes)
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.drop(self.norm(x)))


def test_scoring_touches_no_statistics_and_no_random_numbers(digits: Digits) -> None:
    torch.manual_seed(0)
    method = MIR(Dropping((1, 28, 28), 10), 30, 5)
    method.task = type("Now", (), {"lr": 0.1})()
    method.train()
    method.backbone.norm.eval()
    batch, candidates = digits(0, 10, 2, 3), digits(0, 30, 0, 1)
    loss = batch.cross_entropy(method(batch.x))
    buffers = [value.clone() for value in method.buffers()]
    modes = [module.training for module in method.modules()]
    state = torch.get_rng_state()
    first = method.interference(loss, candidates)
    assert all(map(torch.equal, method.buffers(), buffers))
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(method.interference(loss, candidates), first)


def test_the_contract() -> None:
    check_method(MIR, {"candidates": 20, "top": 6})


@pytest.mark.parametrize(("candidates", "top"), [(5, 6), (5, 0)])
def test_more_to_replay_than_candidates_is_refused(make: Make, candidates: int, top: int) -> None:
    with pytest.raises(UserError, match=rf"^model\.top={top}, model\.candidates=5: .*from 1 to"):
        make(MIR, candidates=candidates, top=top)
