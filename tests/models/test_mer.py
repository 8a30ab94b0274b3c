"""MER: both interpolations, in one step an inner batch and in one step an example."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor, nn

from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method
from perdure.models.mer import MER
from perdure.models.replay import Replay
from perdure.training.optim import SGD

DEFAULTS = {"beta": 1.0, "gamma": 1.0, "repeats": 1, "inner": "batch", "replayed": 10}


def options(**changes: Any) -> dict[str, Any]:
    return {**DEFAULTS, **changes}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


class Stacked(Method):
    """ER on the same draws."""

    replays = (Replay(10),)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        both = batch + replay[0]
        return both.cross_entropy(self(both.x))


def test_without_interpolation_it_is_er(make_trainer: Any) -> None:
    """β = γ = 1 and s = 1, with one new example a step; γ = 0 learns nothing."""
    ends = []
    for kind in (
        Stacked,
        lambda backbone: MER(backbone, **options()),
        lambda backbone: MER(backbone, **options(gamma=0.0, repeats=2)),
    ):
        trainer = make_trainer(kind, iterations=25, batch_size=1)
        before = weights(trainer.method)
        trainer.fit()
        ends.append(weights(trainer.method))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], before)


@pytest.mark.parametrize("inner", ["batch", "sequential"])
@pytest.mark.parametrize(("beta", "gamma", "repeats"), [(0.3, 0.5, 3), (1.0, 0.2, 2), (0.5, 1, 1)])
def test_a_step_by_hand(
    make_trainer: Any, inner: str, beta: float, gamma: float, repeats: int
) -> None:
    """Each step again, from the examples that MER drew, on a copy of the network."""
    compared: list[int] = []

    class Watched(MER):
        drawn: list[tuple[Batch, Batch]]

        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            if self.update == 0:
                self.copy, self.drawn = deepcopy(self.backbone), []
            self.drawn.append((batch, replay[0]))
            return super().loss(batch, *replay)

        def after_batch(self) -> None:
            super().after_batch()
            expected = by_hand(self.copy, self.drawn, 4, beta, gamma, inner)
            torch.testing.assert_close(weights(self.backbone), expected, rtol=1e-5, atol=1e-6)
            compared.append(len(self.drawn))

    chosen = options(beta=beta, gamma=gamma, repeats=repeats, inner=inner, replayed=4)
    trainer = make_trainer(
        lambda backbone: Watched(backbone, **chosen), iterations=6, batch_size=1, stop_after=2
    )
    trainer.fit()
    assert compared == [repeats * (5 if inner == "sequential" else 1)] * 12


def by_hand(
    network: nn.Module,
    drawn: list[tuple[Batch, Batch]],
    replayed: int,
    beta: float,
    gamma: float,
    inner: str,
) -> Tensor:
    def step(x: Tensor, y: Tensor) -> None:
        network.zero_grad()
        F.cross_entropy(network(x), y).backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.1 * p.grad

    def go(start: Tensor, rate: float) -> None:
        nn.utils.vector_to_parameters(
            start + rate * (weights(network) - start), network.parameters()
        )

    across = weights(network)
    size = replayed + 1 if inner == "sequential" else 1
    for first in range(0, len(drawn), size):
        within = weights(network)
        for number, (batch, past) in enumerate(drawn[first : first + size], 1):
            if inner == "batch":
                step(torch.cat([batch.x, past.x]), torch.cat([batch.y, past.y]))
            elif number == size:
                step(batch.x, batch.y)
            elif past:
                assert len(past) == 1
                step(past.x, past.y)
        go(within, beta)
    go(across, gamma)
    return weights(network)


def test_batch_statistics_are_not_interpolated(make_trainer: Any) -> None:
    """They go on as they would with γ = 1, where the weights stay."""

    class Counting(MER):
        def __init__(self, backbone: Any) -> None:
            backbone.head = nn.Sequential(nn.BatchNorm1d(20), backbone.head)
            super().__init__(backbone, **options(gamma=0.0))

    trainer = make_trainer(Counting, iterations=5, stop_after=1)
    trainer.fit()
    assert trainer.method.backbone.head[0].num_batches_tracked == 5
    assert trainer.method.backbone.head[0].running_mean.abs().max() > 0


@pytest.mark.parametrize("inner", ["batch", "sequential"])
def test_the_contract(inner: str) -> None:
    chosen = options(beta=0.5, gamma=0.5, repeats=2, inner=inner, replayed=3)
    check_method(MER, chosen, settings={"epochs": 1, "batch_size": 20})


def test_momentum_is_refused(make_trainer: Any) -> None:
    with pytest.raises(UserError, match=r"^optimizer\.momentum=0\.9: MER moves the weights"):
        make_trainer(
            lambda backbone: MER(backbone, **options()),
            optimizer=lambda groups: SGD(groups, lr=0.1, momentum=0.9),
            buffer=Buffer(Reservoir(50, 10)),
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [("beta", -0.1), ("gamma", 1.5), ("repeats", 0), ("replayed", 0), ("inner", "both")],
)
def test_options_that_make_no_sense(make: Callable[..., Any], key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: .*must be "):
        make(MER, **options(**{key: value}))
