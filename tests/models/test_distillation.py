"""Softened responses and sigmoid targets, against loops over examples and classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.models.distillation import sigmoid_targets, softened
from perdure.models.teacher import Teacher


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_softened_responses(temperature: float) -> None:
    old, z = torch.randn(2, 6, 4, dtype=torch.float64)
    found = softened(old, z, temperature).tolist()
    for o, s, value in zip(old.tolist(), z.tolist(), found, strict=True):
        target, answer = ([math.exp(v / temperature) for v in row] for row in (o, s))
        wanted = -sum(
            t / sum(target) * math.log(a / sum(answer)) for t, a in zip(target, answer, strict=True)
        )
        assert value == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("past", [[], [0, 1], [7, 1, 4]], ids=str)
def test_an_old_class_s_target_is_the_teacher_s_answer(
    digits: Callable[..., Batch], past: list[int]
) -> None:
    torch.manual_seed(0)
    old, batch = Teacher(MLP((1, 28, 28), 10, (12,))), digits(0, 20)
    found = sigmoid_targets(torch.zeros(20, 10), batch, old, Classes(past))
    scores = old(batch.x)
    for i, y in enumerate(batch.y.tolist()):
        for c in range(10):
            wanted = 1 / (1 + math.exp(-float(scores[i, c]))) if c in past else float(c == y)
            assert float(found[i, c]) == pytest.approx(wanted, rel=1e-5)
