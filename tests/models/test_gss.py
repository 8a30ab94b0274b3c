"""GSS: replay as in ER, with the memory of GSS-Greedy, which the whole run follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.gradient_selection import GradientSelection
from perdure.buffers.policy import Offer, Placement
from perdure.buffers.sampling import Uniforms, subsets
from perdure.config.compose import compose
from perdure.errors import UserError
from perdure.models.er import ER
from perdure.models.gss import GSS

OPTIONS = {"comparisons": 4, "repeats": 1}


class Recorded(GradientSelection):
    """Keeps the numbers and the decision of each step."""

    def __init__(self) -> None:
        super().__init__(20, 6, 4)
        self.steps: list[tuple[np.ndarray, Placement, np.ndarray]] = []

    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        u = uniforms.random(min(4, self.held) + 2 * len(offer))
        placement = super().place(offer, uniforms)
        self.steps.append((u, placement, self._scores.copy()))
        return placement


def test_the_memory_is_that_of_the_paper_s_loop(make_trainer: MakeTrainer) -> None:
    """Each step again, example by example, with gradients of its own of each example."""
    policy, examples = Recorded(), list[tuple[Tensor, Tensor, Tensor]]()
    trainer = make_trainer(
        lambda backbone: Watched(backbone, policy, examples, **OPTIONS),
        iterations=8,
        buffer=Buffer(policy),
    )
    trainer.fit()
    assert len(policy.steps) == 24
    held: list[Tensor] = []  # images
    scores = np.zeros(20)
    replaced = 0
    for step, (u, _, found) in enumerate(policy.steps):
        raw, directions, of_held = examples[step]
        compared = min(4, len(held))
        c = np.full(len(raw), 0.1)
        if compared:
            slots = subsets(u[None, :compared], len(held))[0]
            c = (directions @ of_held[slots].T).max(1).values.numpy() + 1
        pick, accept = u[compared:].reshape(2, -1)
        for row in range(len(raw)):
            if len(held) < 20:
                scores[len(held)] = c[row]
                held.append(raw[row])
            elif c[row] < 1:
                i = int(np.searchsorted(np.cumsum(scores), pick[row] * scores.sum(), "right"))
                if accept[row] < scores[i] / (scores[i] + c[row]):
                    held[i], scores[i] = raw[row], c[row]
                    replaced += 1
        np.testing.assert_allclose(found, scores, atol=1e-4)
    buffer = trainer.state.buffer
    assert buffer is not None
    assert torch.equal(buffer.contents()["raw"], torch.stack(held))
    assert replaced > 20


class Watched(GSS):
    """Takes the gradients of the batch and of the whole memory after each step."""

    def __init__(
        self, backbone: Any, policy: Recorded, examples: list[Any], **options: Any
    ) -> None:
        super().__init__(backbone, **options)
        self.policy = policy
        self.examples = examples
        self.held = torch.zeros((0, 1, 28, 28), dtype=torch.uint8)
        self.labels = torch.zeros(0, dtype=torch.int64)

    def loss(self, batch: Any, *replay: Any) -> Any:
        self.batch = batch
        return super().loss(batch, *replay)

    def after_batch(self) -> None:
        self._follow()
        self.examples.append(
            (self.batch.raw, self._directions(self.batch.raw, self.batch.y),
             self._directions(self.held, self.labels))
        )  # fmt: skip
        self.last = (self.batch.raw, self.batch.y)

    def _follow(self) -> None:
        """The memory after the last step's offer."""
        if not self.policy.steps:
            return
        (rows, slots), (raw, y) = self.policy.steps[-1][1], self.last
        for row, slot in zip(rows, slots, strict=True):
            if slot == len(self.held):
                self.held = torch.cat([self.held, raw[row : row + 1]])
                self.labels = torch.cat([self.labels, y[row : row + 1]])
            self.held[slot], self.labels[slot] = raw[row], y[row]

    def _directions(self, raw: Tensor, y: Tensor) -> Tensor:
        found = [torch.zeros(0, sum(p.numel() for p in self.trainable()))]
        for image, label in zip(raw, y, strict=True):
            loss = F.cross_entropy(self(image[None].float() / 255), label[None])
            parts = torch.autograd.grad(loss, self.trainable())
            found.append(F.normalize(torch.cat([part.flatten() for part in parts])[None]))
        return torch.cat(found)


def test_training_is_er_s(make_trainer: MakeTrainer) -> None:
    """Once a batch, with one memory for both, to the bit; another number of repeats is not."""
    ends = []
    for kind in (
        ER,
        lambda backbone: GSS(backbone, **OPTIONS),
        lambda backbone: GSS(backbone, comparisons=4, repeats=2),
    ):
        trainer = make_trainer(kind, iterations=12, buffer=Buffer(GradientSelection(20, 6, 4)))
        trainer.fit()
        ends.append(torch.nn.utils.parameters_to_vector(trainer.method.trainable()).detach())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_method_s_comparisons_are_the_buffer_s() -> None:
    assert compose("model=gss", "model.comparisons=7").buffer.comparisons == 7
    assert compose("model=er", "buffer=gss").buffer.comparisons == 10
    assert compose("model=gss", "buffer.comparisons=3").buffer.comparisons == 3


def test_the_contract() -> None:
    check_method(
        GSS,
        {"comparisons": 4, "repeats": 2},
        buffer=lambda: GradientSelection(40, 10, 4),
        settings={"epochs": 1},
    )


@pytest.mark.parametrize("key", ["comparisons", "repeats"])
def test_options_that_make_no_sense(make: Callable[..., Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}=0: .*must be 1 or more"):
        make(GSS, **{**OPTIONS, key: 0})
