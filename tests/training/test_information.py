"""What a policy is told of examples, against what the method computes; refusals; exactness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.backbones.heads import Identity
from perdure.buffers.base import Buffer
from perdure.buffers.gradient_selection import GradientSelection
from perdure.buffers.loss_aware import LossAware, LossAwareBalanced
from perdure.buffers.policy import Offer, Placement, StepPolicy, TaskPolicy
from perdure.buffers.reservoir import Reservoir
from perdure.buffers.sampling import Uniforms
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip, Scale
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.base import Loss, StepOutput
from perdure.models.er import ER
from perdure.models.gem import GEM
from perdure.models.icarl import ICaRL
from perdure.models.mir import MIR
from perdure.training.information import NetworkGradients

POLICIES: dict[str, Callable[[], StepPolicy]] = {
    "loss-aware": lambda: LossAware(30, 8),
    "loss-aware-balanced": lambda: LossAwareBalanced(30, 8),
    "gss": lambda: GradientSelection(30, 8, 4),
}
every_policy = pytest.mark.parametrize("policy", POLICIES)


class Told(Reservoir):
    """Keeps all that it is told."""

    needs: ClassVar[tuple[str, ...]] = ("losses",)

    def __init__(self, size: int, batch_size: int) -> None:
        super().__init__(size, batch_size)
        self.offered: list[np.ndarray] = []
        self.of_stored: list[tuple[np.ndarray, np.ndarray]] = []

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        self.offered.append(offer.info["losses"])
        return super().place(offer, uniforms)

    def replayed(self, slots: np.ndarray, losses: np.ndarray) -> None:
        self.of_stored.append((slots, losses))


class Telling(ER):
    """ER that keeps each example's loss, as it computes them."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.known: list[list[Tensor]] = []

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        # Scopes are contiguous from 0 in these benchmarks.
        self.known.append(
            [
                F.cross_entropy(
                    self(b.x)[:, list(b.scope or range(10))], b.y_in_scope, reduction="none"
                )
                for b in (batch, *replay)
                if len(b)
            ]
        )
        return super().loss(batch, *replay)


@pytest.mark.parametrize("scope", ["full", "seen", "current"])
@pytest.mark.parametrize("transform", [Scale(), CropFlip(padding=2)], ids=["plain", "augmented"])
def test_losses_are_those_that_the_step_trains_on(
    make_trainer: MakeTrainer, scope: str, transform: Scale
) -> None:
    """Of the batch and of its replay draw, before the weights move, augmented as they are."""
    policy = Told(30, 8)
    trainer = make_trainer(
        Telling, iterations=9, loss_scope=scope, buffer=Buffer(policy), transform=transform
    )
    trainer.fit()
    known = trainer.method.known
    assert len(policy.offered) == len(known) == 27
    for offered, (own, *_) in zip(policy.offered, known, strict=True):
        assert offered.dtype == np.float64
        np.testing.assert_allclose(offered, own.detach().numpy(), rtol=1e-5, atol=1e-6)
    replayed = [draws[0] for _, *draws in known if draws]
    for (slots, losses), own in zip(policy.of_stored, replayed, strict=True):
        assert len(set(slots.tolist())) == len(slots) == 8
        np.testing.assert_allclose(losses, own.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_slots_are_those_of_the_replayed_examples(make_trainer: MakeTrainer) -> None:
    compared = []

    class Watched(ER):
        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            if replay[0]:
                slots, _ = policy.of_stored[-1]
                held = buffer.select(torch.from_numpy(slots))
                compared.append(torch.equal(held["raw"], replay[0].raw))
            return super().loss(batch, *replay)

    policy = Told(30, 8)
    buffer = Buffer(policy)
    make_trainer(Watched, iterations=9, buffer=buffer).fit()
    assert compared == [True] * 26


def test_each_update_of_a_batch_tells_the_losses_of_its_own_draw(make_trainer: MakeTrainer) -> None:
    policy = Told(30, 8)
    make_trainer(ER, iterations=5, updates=3, stop_after=1, buffer=Buffer(policy)).fit()
    assert len(policy.of_stored) == 3 * 4
    assert len({tuple(slots) for slots, _ in policy.of_stored}) > 4


def test_at_a_task_s_end_losses_are_those_of_the_trained_network(
    make_trainer: MakeTrainer,
) -> None:
    policy, expected = Told(30, 8), []

    class Late(ER):
        store_at = "task"

        def after_task(self, data: Any, memory: Any) -> None:
            with torch.no_grad():
                each = [F.cross_entropy(self(b.x), b.y, reduction="none") for b in data(1000)]
            expected.append(torch.cat(each).numpy())

    make_trainer(Late, iterations=5, stop_after=2, buffer=Buffer(policy)).fit()
    assert len(policy.offered) == len(expected) == 2
    for offered, own in zip(policy.offered, expected, strict=True):
        np.testing.assert_allclose(offered, own, rtol=1e-5, atol=1e-6)


def test_cosines_are_those_of_a_loop_over_examples(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(ER, iterations=5, stop_after=1)
    trainer.fit()
    method, buffer = trainer.method, trainer.state.buffer
    assert buffer is not None
    split = trainer.benchmark.train(1)
    raw, y, slots = split.x[:7], split.y[:7], np.array([3, 11, 4])
    held = buffer.select(torch.from_numpy(slots))

    def direction(raw: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(method(raw[None].float() / 255), y[None])
        gradients = torch.autograd.grad(loss, method.trainable())
        vector = torch.cat([gradient.flatten() for gradient in gradients]).double()
        return vector / vector.norm()

    expected = [
        [direction(a, b) @ direction(c, d) for c, d in zip(held["raw"], held["y"], strict=True)]
        for a, b in zip(raw, y, strict=True)
    ]
    method.train()
    found = NetworkGradients(method, Scale(), buffer, raw, y).cosines(slots)
    assert method.training
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.array(expected), atol=1e-5)
    assert found.std() > 0.01


@every_policy
@pytest.mark.parametrize("kind", ["er", "mir", "gem", "icarl"])
def test_any_method_resumes_exactly_with_any_policy(policy: str, kind: str) -> None:
    """Of steps and of a task's end, with draws of every kind; batches in one and in two parts."""
    methods: dict[str, tuple[Any, dict[str, Any]]] = {
        "er": (ER, {}),
        "mir": (MIR, {"candidates": 12, "top": 6}),
        "gem": (GEM, {"margin": 0.5, "ridge": 1e-3}),
        "icarl": (ICaRL, {}),
    }
    method, options = methods[kind]
    check_method(method, options, buffer=POLICIES[policy], settings={"epochs": 1})


def test_a_policy_that_needs_nothing_takes_no_further_forward_pass(
    make_trainer: MakeTrainer,
) -> None:
    passes = []

    class Counting(ER):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(self.training)
            return super().forward(x)

    counts = []
    for policy in (Reservoir(30, 8), LossAware(30, 8)):
        passes.clear()
        trainer = make_trainer(Counting, iterations=6, stop_after=1, buffer=Buffer(policy))
        trainer.fit()
        counts.append((sum(passes), len(passes) - sum(passes)))
    (training, measuring), (same, more) = counts
    assert training == same == 6
    assert more == measuring + 6


@every_policy
def test_scores_of_classes_are_needed(make_trainer: MakeTrainer, policy: str) -> None:
    class Headless(ER):
        def __init__(self, backbone: Any) -> None:
            backbone.head = Identity()
            super().__init__(backbone)

        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            return StepOutput(None)

        def predict(self, x: Tensor, task: int | None = None) -> Tensor:
            return x

    make_trainer(Headless)
    with pytest.raises(
        UserError, match=rf"^buffer={policy}: chooses examples by their .*head=none"
    ):
        make_trainer(Headless, buffer=Buffer(POLICIES[policy]()))


@every_policy
def test_a_network_in_parts_is_refused(make_trainer: MakeTrainer, policy: str) -> None:
    with pytest.raises(UserError, match=rf"^buffer={policy}: .*parallel=fsdp splits them"):
        make_trainer(
            parallel="fsdp", shards=2, ranks=Ranks(0, 2), buffer=Buffer(POLICIES[policy]())
        )


@every_policy
def test_a_memory_in_parts_is_refused(make_trainer: MakeTrainer, policy: str) -> None:
    with pytest.raises(UserError, match=rf"replay_sync=local with buffer={policy}: "):
        make_trainer(replay_sync="local", buffer=Buffer(POLICIES[policy]()))


def test_a_policy_of_a_task_s_end_may_need_losses(make_trainer: MakeTrainer) -> None:
    class Hardest(TaskPolicy):
        needs: ClassVar[tuple[str, ...]] = ("losses", "features")

        def choose(self, held: Any, offer: Offer, uniforms: Uniforms) -> Any:
            assert len(offer.info["features"]) == len(offer.info["losses"]) == len(offer)
            return np.arange(0), np.argsort(-offer.info["losses"])[: self.size]

    buffer = Buffer(Hardest(30, 8))
    make_trainer(ER, iterations=5, stop_after=1, buffer=buffer).fit()
    assert len(buffer) == 30
