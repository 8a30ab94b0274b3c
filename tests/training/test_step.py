"""One step: what is added to the loss, what is drawn, what is stored, in which order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.buffers.sampling import subsets
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip, Scale
from perdure.models.base import Loss, Method, Task
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.sgd import FineTuning
from perdure.randomness import Streams
from perdure.training.draws import BlockStream
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

CPU = torch.device("cpu")


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((1, 28, 28), 10, (12,))


def step_of(
    method: Method,
    buffer: Buffer | None = None,
    transform: Scale | None = None,
    **settings: Any,
) -> Step:
    method.task = Task(0, range(10), range(10))
    options = Settings(batch_size=10, **settings)
    return Step(method, transform or Scale(), buffer, Streams(7), options, CPU)


def take(step: Step, tiny: Arrays, k: int, lr: float = 0.1, n: int = 10) -> Tensor:
    """Step number `k` on the digits from `n · k` on."""
    raw, y = tiny.train.x[n * k : n * k + n], tiny.train.y[n * k : n * k + n]
    optimizer = SGD(step.method.trainable(), lr=lr)
    return step(raw, y, y.numpy(), optimizer, Position(0, 0, k, k))


def weights_of(method: Method) -> Tensor:
    return parameters_to_vector(method.trainable()).detach().clone()


def gradient_of(value: Tensor, method: Method) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, method.trainable())])


class Pulled(FineTuning):
    """Weight decay as a penalty; writes down the gradient that `after_backward` sees."""

    def penalty(self) -> Tensor | None:
        return sum((p.square().sum() for p in self.trainable()), torch.zeros(()))

    def after_backward(self, references: Tensor | None) -> None:
        assert references is None
        self.seen = torch.cat([p.grad.flatten() for p in self.trainable() if p.grad is not None])


def test_a_penalty_joins_after_the_method_has_seen_the_loss_s_gradient(tiny: Arrays) -> None:
    method = Pulled(network())
    x, y = tiny.train.x[:10].float() / 255, tiny.train.y[:10]
    loss, before = F.cross_entropy(method(x), y), weights_of(method)
    gradient = gradient_of(loss, method)
    objective = take(step_of(method), tiny, 0)
    assert not objective.requires_grad
    torch.testing.assert_close(objective, loss.detach() + before.square().sum())
    torch.testing.assert_close(method.seen, gradient, rtol=1e-5, atol=1e-8)
    expected = before - 0.1 * (gradient + 2 * before)
    torch.testing.assert_close(weights_of(method), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip_norm", [1e-3, 1e6], ids=["clipped", "loose"])
def test_clipping_bounds_the_whole_gradient(tiny: Arrays, clip_norm: float) -> None:
    free, clipped = Pulled(network()), Pulled(network())
    start = weights_of(free)
    take(step_of(free), tiny, 0, lr=1.0)
    take(step_of(clipped, clip_norm=clip_norm), tiny, 0, lr=1.0)
    moves = [weights_of(method) - start for method in (free, clipped)]
    scale = min(1.0, clip_norm / float(moves[0].norm()))
    torch.testing.assert_close(moves[1], scale * moves[0], rtol=1e-4, atol=1e-7)


class Recording(DERpp):
    """Keeps the batches that it received."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.received = (batch, *replay)
        outcome: Loss = super().loss(batch, *replay)
        return outcome


def test_each_part_gets_its_own_augmentation_and_bytes_are_stored(tiny: Arrays) -> None:
    """Images and stored logits by hand: bytes as they came, logits of the augmented view."""
    method, buffer, transform = Recording(network(), 0.5, 0.5), Buffer(Reservoir(50, 6)), CropFlip()
    step, streams = step_of(method, buffer, transform), Streams(7)
    before: dict[str, Tensor] = {}
    for k in range(4):
        held = {key: value.clone() for key, value in buffer.contents().items()}
        before = {name: p.clone() for name, p in method.backbone.state_dict().items()}
        take(step, tiny, k)
    batch, *draws = method.received
    sizes = [10, 6, 6]
    choices = transform.draw(22, streams.numpy("augmentation", step=3))
    assert choices is not None
    for part, choice in zip(method.received, choices.split(sizes), strict=True):
        assert torch.equal(part.x, transform(part.raw, choice))
    for part, draw in enumerate(draws):
        uniforms = BlockStream(streams, "replay", 12).at({"step": 3}).random((2, 6))
        rows = subsets(uniforms[part : part + 1], 30)[0]
        assert all(
            torch.equal(value[rows], dict(draw.stored, raw=draw.raw, y=draw.y)[key])
            for key, value in held.items()
        )
    assert not torch.equal(draws[0].raw, draws[1].raw)
    assert torch.equal(buffer.contents()["raw"], tiny.train.x[:40])
    twin = network()
    twin.load_state_dict(before)
    torch.testing.assert_close(buffer.contents()["logits"][30:], twin(batch.x).detach())


def test_a_small_buffer_gives_what_it_has_and_an_empty_one_nothing(tiny: Arrays) -> None:
    method, buffer = Recording(network(), 0.5, 0.5), Buffer(Reservoir(100, 25))
    step = step_of(method, buffer)
    for k, sizes in enumerate([(10, 0, 0), (10, 10, 10), (10, 20, 20), (10, 25, 25)]):
        take(step, tiny, k)
        assert tuple(len(part) for part in method.received) == sizes


class Dropping(Backbone):
    """Dropout draws from torch's global generator."""

    def __init__(self) -> None:
        super().__init__(784, 10)
        self.drop = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.drop(x.flatten(1))
        return dropped


def test_a_step_is_a_function_of_its_position(tiny: Arrays) -> None:
    """Whatever was drawn before, from whichever generator; and another position differs."""
    ends = []
    for disturb, first in ((False, 0), (True, 0), (False, 1)):
        torch.manual_seed(0)
        method, buffer = ER(Dropping()), Buffer(Reservoir(15, 10))
        step = step_of(method, buffer, CropFlip(padding=2))
        optimizer = SGD(method.trainable(), lr=0.1)
        for k in range(5):
            if disturb:
                torch.rand(k + 1)
                np.random.rand(3)
                step.streams.numpy("replay", step=99).random(k)
            raw, y = tiny.train.x[:10], tiny.train.y[:10]
            step(raw, y, y.numpy(), optimizer, Position(0, first, k, k))
        ends.append((weights_of(method), buffer.contents()["raw"].clone()))
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not torch.equal(ends[0][0], ends[2][0])


def test_dropout_is_another_at_every_position(tiny: Arrays) -> None:
    """On the same weights and examples only the position can make the losses differ."""
    method = FineTuning(Dropping())
    step, optimizer = step_of(method), SGD(method.trainable(), lr=0.0)
    raw, y = tiny.train.x[:10], tiny.train.y[:10]
    places = [Position(), Position(1, 0, 0, 9), Position(0, 1, 0, 9), Position(0, 0, 1, 1)]
    losses = [float(step(raw, y, y.numpy(), optimizer, at)) for at in (*places, *places)]
    assert losses[:4] == losses[4:]
    assert len(set(losses)) == 4


def test_scaled_gradients_are_clipped_at_their_true_size(tiny: Arrays) -> None:
    method = FineTuning(network())
    start = weights_of(method)
    take(step_of(method, precision="fp16", clip_norm=1e-3), tiny, 0, lr=1.0)
    assert float((weights_of(method) - start).norm()) == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_full(tiny: Arrays, precision: str) -> None:
    """Weights stay float32; the losses agree as long as training does not amplify rounding."""
    losses: dict[str, list[float]] = {}
    for kind in ("fp32", precision):
        method, buffer = DERpp(network(), 0.5, 0.5), Buffer(Reservoir(30, 10))
        step = step_of(method, buffer, precision=kind)
        losses[kind] = [float(take(step, tiny, k, lr=0.01)) for k in range(12)]
        assert {p.dtype for p in method.trainable()} == {torch.float32}
        assert weights_of(method).isfinite().all()
    assert losses[precision] != losses["fp32"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.03)
