"""What a step gives and takes: several updates, references, rows and sums, rewriting, views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer, check_method
from torch import Tensor

from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip
from perdure.errors import UserError
from perdure.models.base import Data, Loss, StepOutput
from perdure.models.er import ER
from perdure.models.memory import Memory
from perdure.models.replay import Replay
from perdure.models.sgd import FineTuning
from perdure.tracking.events import StepLog


class Repeated(ER):
    """Three updates a batch, with an interpolation at its end."""

    updates_seen: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("updates_seen", torch.zeros(3, dtype=torch.int64))
        self.drawn: list[list[int]] = []

    def updates(self, batch: Batch) -> int:
        return 3

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.drawn.append(replay[0].y.tolist())
        noise = torch.randn(len(batch) + len(replay[0]), 10)
        both = batch + replay[0]
        return both.cross_entropy(self(both.x) + 1e-2 * noise)

    def after_backward(self, references: Tensor | None) -> None:
        if self.update == 0:
            self.start = [p.detach().clone() for p in self.trainable()]

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.updates_seen[self.update] += 1

    @torch.no_grad()
    def after_batch(self) -> None:
        for p, start in zip(self.trainable(), self.start, strict=True):
            p.lerp_(start, 0.1)


def test_several_updates_on_a_batch(make_trainer: MakeTrainer) -> None:
    check_method(Repeated)
    trainer = make_trainer(Repeated, iterations=5, stop_after=1)
    trainer.fit()
    assert trainer.method.updates_seen.tolist() == [5, 5, 5]
    assert trainer.state.buffer is not None
    assert trainer.state.buffer.seen == 50, "stored once, however many updates"
    draws = trainer.method.drawn[-3:]
    assert len(set(map(tuple, draws))) == 3, "each update draws replay of its own"


def test_the_configuration_s_updates_reach_every_method(make_trainer: MakeTrainer) -> None:
    check_method(ER, settings={"updates": 2})
    twice = make_trainer(ER, updates=2, iterations=4)
    once = make_trainer(ER, iterations=4)
    assert twice.fit()["global_step"] == once.fit()["global_step"] == 12
    assert not torch.equal(twice.method.backbone.head.weight, once.method.backbone.head.weight)
    with pytest.raises(UserError, match=r"training\.updates=2: Repeated says itself"):
        make_trainer(Repeated, updates=2)


class TwoReferences(ER):
    """Keeps the gradients of two further losses."""

    def references(self, *replay: Batch) -> Iterator[Tensor]:
        if replay[0]:
            yield replay[0].cross_entropy(self(replay[0].x))
            yield replay[0].mean(self(replay[0].x).square().sum(1))

    def after_backward(self, references: Tensor | None) -> None:
        self.given = references
        if references is not None:
            for p, part in zip(
                self.trainable(),
                references.mean(0).split([p.numel() for p in self.trainable()]),
                strict=True,
            ):
                assert p.grad is not None
                p.grad += 0.1 * part.view_as(p)


@pytest.mark.parametrize("shards", [1, 3])
def test_gradients_of_further_losses(make_trainer: MakeTrainer, shards: int) -> None:
    check_method(TwoReferences)
    trainer = make_trainer(TwoReferences, iterations=2, stop_after=1, shards=shards)
    replayed: list[Batch] = []
    references = trainer.method.references

    def noted(*replay: Batch) -> Iterator[Tensor]:
        replayed.append(replay[0])
        return references(*replay)

    object.__setattr__(trainer.method, "references", noted)
    before: list[Tensor] = []
    hook = trainer.method.after_backward

    def at_these_weights(given: Tensor | None) -> None:
        before[:] = [p.detach().clone() for p in trainer.method.trainable()]
        hook(given)

    object.__setattr__(trainer.method, "after_backward", at_these_weights)
    trainer.fit()
    given = trainer.method.given
    assert given.shape == (2, sum(p.numel() for p in trainer.method.trainable()))
    with torch.no_grad():
        for p, value in zip(trainer.method.trainable(), before, strict=True):
            p.copy_(value)
    x = torch.cat([part.x for part in replayed[-shards:]])
    y = torch.cat([part.y for part in replayed[-shards:]])
    z = trainer.method(x)
    for row, loss in zip(
        given,
        (torch.nn.functional.cross_entropy(z, y), z.square().sum(1).mean()),
        strict=True,
    ):
        parts = torch.autograd.grad(loss, trainer.method.trainable(), retain_graph=True)
        expected = torch.cat([part.flatten() for part in parts])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-6)


class Statistics(FineTuning):
    """Streaming means of the inputs by class, from rows alone; a loss is logged."""

    sums_of: Tensor
    counts: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("sums_of", torch.zeros(10, 784, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(10, dtype=torch.int64))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        rows = {"x": batch.x.flatten(1), "y": batch.y}
        loss = batch.cross_entropy(self(batch.x))
        return StepOutput(loss, rows=rows, log={"twice": 2 * loss})

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.sums_of.index_add_(0, rows["y"], rows["x"].double())
        self.counts += torch.bincount(rows["y"], minlength=10)


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_are_those_of_the_global_batch(make_trainer: MakeTrainer, shards: int) -> None:
    listener = Listener()
    trainer = make_trainer(Statistics, epochs=1, shards=shards, recorders=[listener])
    trainer.fit()
    x = torch.cat([trainer.benchmark.train(t).x for t in range(3)]).flatten(1).double() / 255
    y = torch.cat([trainer.benchmark.train(t).y for t in range(3)])
    expected = torch.zeros(10, 784, dtype=torch.float64).index_add_(0, y, x)
    assert torch.equal(trainer.method.counts, torch.bincount(y, minlength=10))
    torch.testing.assert_close(trainer.method.sums_of, expected, rtol=1e-6, atol=1e-6)
    for event in listener.of(StepLog):
        assert event.logged["twice"] == pytest.approx(2 * event.loss, rel=1e-6)
    check_method(Statistics)


class Means(FineTuning):
    """Class means derived before each evaluation."""

    keeps_exemplars = True
    store_at = "task"
    evaluations = 0

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        assert not torch.is_grad_enabled()
        assert not self.training
        self.evaluations += 1
        self.held = len(memory)
        self.noise = torch.randn(10)
        self.own = sum(len(batch) for batch in data(50))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        return self(x) + 1e-3 * self.noise


def test_what_is_derived_before_an_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(Means, epochs=2, evaluate_every=1)
    trainer.fit()
    assert trainer.method.evaluations == 6
    assert trainer.method.held == 50
    assert trainer.method.own == trainer.benchmark.n_train(2)
    check_method(Means)


class Knows(FineTuning):
    needs_n_tasks = True

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert self.task.n_tasks == 3
        return batch.cross_entropy(self(batch.x))


def test_the_number_of_tasks_is_told_where_it_is_needed(make_trainer: MakeTrainer) -> None:
    assert make_trainer(Knows, iterations=2).fit()["status"] == "finished"
    other = make_trainer(FineTuning, iterations=2)
    other.fit()
    assert other.method.task.n_tasks is None


class Renewing(FineTuning):
    """Stores logits, and renews those of what it replays."""

    replays = (Replay(8), Replay(5))
    stored_fields = ("logits",)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        z = self(batch.x)
        if not replay[0]:
            return StepOutput(batch.cross_entropy(z), {"logits": z})
        new = {
            draw: {"logits": past["index"][:, None] + torch.full((len(past), 10), 100.0 * draw)}
            for draw, past in enumerate(replay)
        }
        return StepOutput(batch.cross_entropy(z), {"logits": torch.zeros_like(z)}, rewrite=new)


@pytest.mark.parametrize("shards", [1, 3])
def test_stored_fields_of_replayed_examples_are_rewritten(
    make_trainer: MakeTrainer, shards: int
) -> None:
    trainer = make_trainer(Renewing, iterations=40, stop_after=1, shards=shards)
    trainer.fit()
    assert trainer.state.buffer is not None
    logits = trainer.state.buffer.contents()["logits"]
    slots = torch.arange(len(logits), dtype=torch.float32)
    of_draw = [(logits[:, 0] == slots + 100 * draw) for draw in (0, 1)]
    new = (logits == 0).all(1)
    assert (of_draw[0] | of_draw[1] | new).all(), "each has its own slot's value, or is new"
    assert all(int(found.sum()) > 3 for found in of_draw)
    check_method(Renewing)


class TwoViews(FineTuning):
    """Keeps the two views of the first batch."""

    views = 2

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.seen: list[Tensor] = []

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        assert torch.equal(batch.x, batch.view(0))
        self.seen.append(torch.stack([batch.view(0), batch.view(1)]))
        return batch.cross_entropy(self(batch.view(1)))


def test_views_are_further_draws_of_the_augmentation(make_trainer: MakeTrainer) -> None:
    views = []
    for shards in (1, 3):
        trainer = make_trainer(
            TwoViews, iterations=1, stop_after=1, shards=shards, transform=CropFlip(padding=3)
        )
        trainer.fit()
        views.append(torch.cat(trainer.method.seen, 1))
    assert torch.equal(views[0], views[1]), "drawn for each example of the global batch"
    assert not torch.equal(views[0][0], views[0][1])
    plain = make_trainer(FineTuning, iterations=1, stop_after=1, transform=CropFlip(padding=3))
    step, noted = plain.method.loss, []
    object.__setattr__(plain.method, "loss", lambda b, *r: (noted.append(b.x), step(b, *r))[1])
    plain.fit()
    assert torch.equal(noted[0], views[0][0]), "the first view is the only one of other methods"
