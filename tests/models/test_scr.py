"""SCR: the contrastive loss, the two views, and prediction by the memory's class means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.datasets.views import strong_view
from perdure.errors import UserError
from perdure.models.base import StepOutput
from perdure.models.contrastive import supervised_contrastive
from perdure.models.memory import Memory
from perdure.models.scr import SCR
from perdure.randomness import Streams

Digits = Callable[..., Batch]
Make = Callable[..., Any]
DEFAULTS = {"temperature": 0.07, "projection": 16, "replayed": 30, "crop": 0.6, "flip": False}


def double_loop(z: Tensor, y: Tensor, temperature: float) -> float:
    """Khosla et al. 2020, eq. 2, anchor by anchor."""
    total = 0.0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [a for a in others if y[a] == y[i]]
        below = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        for p in positives:
            share = math.exp(float(z[i] @ z[p]) / temperature) / below
            total -= math.log(share) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_that_of_a_double_loop(temperature: float) -> None:
    torch.manual_seed(0)
    z = F.normalize(torch.randn(24, 8, dtype=torch.float64))
    y = torch.randint(0, 5, (24,))
    y[0] = 9  # alone in its class
    found = supervised_contrastive(z, y, temperature)
    assert float(found) == pytest.approx(double_loop(z, y, temperature), rel=1e-5)
    order = torch.randperm(24)
    torch.testing.assert_close(supervised_contrastive(z[order], y[order], temperature), found)


def test_an_anchor_without_another_of_its_class_counts_as_zero() -> None:
    z = F.normalize(torch.randn(6, 4)).requires_grad_()
    loss = supervised_contrastive(z, torch.arange(6), 0.07)
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0


def test_views_and_networks_of_the_loss(make: Make, digits: Digits) -> None:
    """The batch as it is and a strong view, of new and replayed examples, projected."""
    method, batch, past = make(SCR, **DEFAULTS), digits(0, 10, 2, 3), digits(0, 30, 0, 1)
    torch.manual_seed(7)
    found = method.loss(batch, past)
    torch.manual_seed(7)
    raw, y = torch.cat([batch.raw, past.raw]), torch.cat([batch.y, past.y])
    both = torch.cat([raw, strong_view(raw, 0.6, False)]) / 255
    z = F.normalize(method.projection(method.backbone.features(both)))
    torch.testing.assert_close(found, supervised_contrastive(z, torch.cat([y, y]), 0.07))
    found.backward()
    learns = {name for name, p in method.named_parameters() if p.grad is not None}
    assert learns == {name for name, p in method.named_parameters() if "head" not in name}


def test_views_are_separate_passes_where_the_network_mixes_examples(digits: Digits) -> None:
    """As in the authors' code, batch norm sees one view at a time."""
    torch.manual_seed(0)
    method = SCR(ReducedResNet18((1, 28, 28), 10, width=2), **DEFAULTS)
    method.one_forward, sizes = method.rows_are_independent, []
    features = method.backbone.features
    method.backbone.features = lambda x: (sizes.append(len(x)), features(x))[1]
    method.loss(digits(0, 10, 2, 3), digits(0, 30, 0, 1))
    assert sizes == [40, 40]


def test_no_step_while_the_memory_is_empty(make_trainer: Any, make: Make, digits: Digits) -> None:
    output = make(SCR, **DEFAULTS).loss(digits(0, 10), digits(0, 0))
    assert isinstance(output, StepOutput)
    assert output.loss is None
    trainer = make_trainer(lambda network: SCR(network, **DEFAULTS), iterations=1, stop_after=1)
    before = {key: value.clone() for key, value in trainer.method.state_dict().items()}
    trainer.fit()
    assert all(
        torch.equal(value, before[key]) for key, value in trainer.method.state_dict().items()
    )
    assert trainer.state.buffer.seen == 10


def memory_of(batch: Batch) -> Memory:
    buffer = Buffer(Reservoir(len(batch), 10))
    generator = Streams(0).numpy("remember")
    buffer.add({"raw": batch.raw, "y": batch.y}, batch.y.numpy(), generator)
    return Memory(buffer, Scale())


def test_prediction_by_the_nearest_class_mean(make: Make, digits: Digits) -> None:
    method, stored, new = make(SCR, **DEFAULTS), digits(0, 60, 0, 1, 4), digits(60, 90, 0, 1, 4)
    assert method.predict(new.x).shape == (30, 10), "before anything is stored"
    with torch.no_grad():
        method.before_evaluation(memory_of(stored), lambda n: iter(()))
        scores = method.predict(new.x)
        f = F.normalize(method.backbone.features(stored.x))
        means = torch.stack([F.normalize(f[stored.y == c].mean(0), dim=0) for c in (0, 1, 4)])
        distance = torch.cdist(F.normalize(method.backbone.features(new.x)), means)
    nearest = torch.tensor([0, 1, 4])[distance.argmin(1)]
    assert torch.equal(scores.argmax(1), nearest)
    others = [2, 3, 5, 6, 7, 8, 9]
    assert scores[:, others].max() < scores[:, [0, 1, 4]].min()
    order = torch.randperm(60)
    shuffled = Batch(stored.raw[order], stored.y[order], Scale())
    with torch.no_grad():
        method.before_evaluation(memory_of(shuffled), lambda n: iter(()))
        torch.testing.assert_close(method.predict(new.x), scores, rtol=1e-5, atol=1e-6)
        method.backbone.head.weight.fill_(1e3)
        torch.testing.assert_close(method.predict(new.x), scores, rtol=1e-5, atol=1e-6)


def test_the_contract() -> None:
    check_method(SCR, DEFAULTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0.0), ("projection", 0), ("replayed", 0), ("crop", 0.0), ("crop", 1.5)],
)
def test_options_that_make_no_sense(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: .*must be "):
        SCR(MLP((1, 28, 28), 10, (12,)), **{**DEFAULTS, key: value})
