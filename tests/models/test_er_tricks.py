"""ER with tricks: the decay of the learning rate, bias control, and both by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from perdure.buffers.base import Buffer
from perdure.buffers.loss_aware import LossAwareBalanced
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip
from perdure.errors import UserError
from perdure.models.base import Loss
from perdure.models.er import ER
from perdure.models.er_tricks import ERTricks
from perdure.training.optim import SGD


def options(**changes: Any) -> dict[str, Any]:
    return {"correction_epochs": 2, "correction_lr": 0.5, "lr_decay": 0.999, **changes}


def weights(method: Any) -> Tensor:
    return parameters_to_vector(method.backbone.parameters()).detach()


def test_without_tricks_it_is_er(make_trainer: MakeTrainer) -> None:
    """To the bit; the correction alone changes no weight, and the decay does."""
    ends = []
    for kind in (
        ER,
        lambda b: ERTricks(b, **options(correction_epochs=0, lr_decay=1.0)),
        lambda b: ERTricks(b, **options(lr_decay=1.0)),
        lambda b: ERTricks(b, **options()),
    ):
        trainer = make_trainer(kind, iterations=15)
        trainer.fit()
        ends.append(weights(trainer.method))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[3])


@pytest.mark.parametrize("shards", [1, 2])
def test_the_rate_falls_with_each_example_seen(make_trainer: MakeTrainer, shards: int) -> None:
    """Each step by hand, at lr d^n; n counts the stream's examples, on through the tasks."""
    steps: list[tuple[Tensor, Tensor]] = []

    class Watched(ERTricks):
        def after_backward(self, references: Tensor | None) -> None:
            if self.task.phase == "main":
                gradient = torch.cat([p.grad.flatten() for p in self.backbone.parameters()])
                self.expected = weights(self) - 0.1 * 0.99 ** (10 * len(steps)) * gradient
            super().after_backward(references)

        def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
            super().after_step(rows, sums)
            if self.task.phase == "main":
                steps.append((weights(self), self.expected))

    trainer = make_trainer(
        lambda b: Watched(b, **options(lr_decay=0.99)), iterations=12, shards=shards
    )
    trainer.fit()
    assert len(steps) == 36
    for found, expected in steps:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert trainer.method.seen.item() == 360


def test_bias_control_by_hand(make_trainer: MakeTrainer) -> None:
    """(g, o) by plain SGD from (1, 0) on the memory, in the order of the phase's batches."""
    fitted: list[float] = []
    batches: list[tuple[Tensor, Tensor]] = []

    class Watched(ERTricks):
        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            if self.task.phase == "bias":
                batches.append((batch.raw, batch.y))
            return super().loss(batch, *replay)

        def before_task(self, data: Any) -> None:
            batches.clear()

        @torch.enable_grad()
        def before_evaluation(self, memory: Any, data: Any) -> None:
            last = self.correction
            g, o = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
            columns = torch.tensor([label in self.task.classes for label in range(10)])
            for raw, y in batches:
                z = self.backbone(raw.float() / 255).detach()
                loss = F.cross_entropy(torch.where(columns, g * z + o, z), y)
                loss.backward()
                with torch.no_grad():
                    for p in (g, o):
                        p -= 0.02 * p.grad
                        p.grad = None
            expected = [g.item(), o.item()]
            assert len(batches) == 2 * 5
            found = [last.alpha.item(), last.beta.item()]
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
            fitted.append(g.item())

    trainer = make_trainer(
        lambda b: Watched(b, **options(correction_lr=0.02)),
        iterations=15,
        transform=CropFlip(padding=3),  # of which the correction sees nothing
    )
    trainer.fit()
    assert len(fitted) == 3
    assert all(abs(g - 1) > 1e-3 for g in fitted)


def test_predictions_take_the_last_correction_alone(make_trainer: MakeTrainer) -> None:
    starts: list[tuple[float, float]] = []

    class Watched(ERTricks):
        def before_task(self, data: Any) -> None:
            starts.append((self.correction.alpha.item(), self.correction.beta.item()))

    trainer = make_trainer(lambda b: Watched(b, **options()), iterations=10, stop_after=2)
    trainer.fit()
    assert starts == [(1.0, 0.0)] * 2
    method = trainer.method
    x = torch.rand(5, 1, 28, 28)
    z, corrected = method(x), method.predict(x)
    g, o = method.correction.alpha, method.correction.beta
    classes = list(method.task.classes)
    others = [label for label in range(10) if label not in classes]
    assert torch.equal(corrected[:, others], z[:, others])
    torch.testing.assert_close(corrected[:, classes], g * z[:, classes] + o)
    assert g.item() != 1


def test_the_contract() -> None:
    check_method(
        ERTricks,
        options(),
        buffer=lambda: LossAwareBalanced(40, 10),
        settings={"epochs": 1},
    )


def test_momentum_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"^optimizer\.momentum=0\.9: ERTricks "):
        make_trainer(
            lambda b: ERTricks(b, **options()),
            optimizer=lambda groups: SGD(groups, lr=0.1, momentum=0.9),
            buffer=Buffer(Reservoir(50, 10)),
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [("correction_epochs", -1), ("correction_lr", -0.5), ("lr_decay", 0.0), ("lr_decay", 1.5)],
)
def test_options_that_make_no_sense(make: Callable[..., Any], key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: .*must be "):
        make(ERTricks, **options(**{key: value}))
