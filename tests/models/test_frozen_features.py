"""What methods on frozen features share: the base phase, the random layer, recursive ridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import MakeTrainer
from torch import Tensor

from perdure.backbones.heads import UNSEEN
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.acil import ACIL
from perdure.models.frozen_features import FrozenFeatures, RecursiveRidge
from perdure.models.ncm import NCM

Digits = Callable[..., Batch]


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 30, 3]])
def test_recursive_ridge_is_joint_ridge(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 12, dtype=torch.float64, generator=generator)
    targets = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    ridge = RecursiveRidge(12, 3, gamma=0.1)
    for rows, part in zip(h.split(sizes), targets.split(sizes), strict=True):
        ridge.update(rows, part)
    gram = h.T @ h + 0.1 * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(ridge.W, torch.linalg.inv(gram) @ h.T @ targets, rtol=0, atol=1e-9)
    torch.testing.assert_close(ridge.inverse, torch.linalg.inv(gram), rtol=0, atol=1e-9)


def test_features_are_without_augmentation_or_batch_statistics(digits: Digits) -> None:
    method = FrozenFeatures(ReducedResNet18((1, 28, 28), 10, width=2))
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    raw, seen = digits(0, 8), []

    def transform(x: Tensor, augmentation: Tensor | None) -> Tensor:
        seen.append(augmentation)
        return raw.transform(x, None)

    batch = Batch(raw.raw, raw.y, transform, torch.ones(8, 2))
    method.train()
    together = method.features(batch)
    torch.testing.assert_close(together[:1], method.features(batch.part(0, 1)))
    assert seen == [None, None]
    for key, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_base_phase_alone_trains_the_network(make_trainer: MakeTrainer) -> None:
    weights: list[tuple[int, str, Tensor]] = []

    class Watched(NCM):
        def loss(self, batch: Batch, *replay: Batch) -> Any:
            weight = self.backbone.get_parameter("layers.0.weight").detach().clone()
            weights.append((self.task.index, self.task.phase, weight))
            return super().loss(batch, *replay)

    trainer = make_trainer(lambda network: Watched(network, "cosine", 1), buffer=None)
    trainer.fit()
    steps = -(-trainer.benchmark.n_train(0) // 10)
    order = [phase for task, phase, _ in weights if task == 0]
    assert order == ["base"] * steps + ["main"] * steps
    assert not torch.equal(weights[0][2], weights[steps][2])
    assert all(torch.equal(weights[steps][2], w) for _, phase, w in weights if phase == "main")


def test_classes_without_examples_have_the_lowest_score(digits: Digits) -> None:
    method = ACIL(MLP((1, 28, 28), 10, (12,)), 8, 0.1, 0)
    method.counts[3] = 1
    scores = method.predict(digits(0, 5).x)
    assert (scores[:, [0, 9]] == UNSEEN).all()
    assert (scores[:, 3] > UNSEEN).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0, 0.1, 0), r"model\.projection=0: must be an integer of 1 or more"),
        ((4, 0.0, 0), r"model\.gamma=0\.0: out of range; must be above 0"),
        ((4, 0.1, -1), r"model\.base_epochs=-1: must be an integer of 0 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ACIL(MLP((1, 2, 2), 3, (4,)), *options)
