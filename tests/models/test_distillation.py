"""Softened responses, sigmoid targets, pooled maps, similarities: against loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.models.distillation import pooled, sigmoid_targets, similarity_distance, softened
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


def test_similarities_are_rows_of_gram_matrices() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 3), torch.randn(6, 4)
    total = 0.0
    for i in range(6):
        rows = [[sum(x * y for x, y in zip(z[i], z[j], strict=True)) for j in range(6)]
                for z in (a.tolist(), b.tolist())]  # fmt: skip
        units = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
        total += sum((p - q) ** 2 for p, q in zip(*units, strict=True))
    assert float(similarity_distance(a, b)) == pytest.approx(total / 36, rel=1e-4)
    assert float(similarity_distance(a, 3 * a)) == pytest.approx(0, abs=1e-12)


def test_a_map_is_pooled_over_its_width_and_over_its_height() -> None:
    h = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    for example, found in zip(h, pooled(h), strict=True):
        rows = [float((example[c, i] ** 2).sum()) for c in range(3) for i in range(5)]
        columns = [float((example[c, :, j] ** 2).sum()) for c in range(3) for j in range(2)]
        length = math.sqrt(sum(v * v for v in rows + columns))
        assert found.tolist() == pytest.approx([v / length for v in rows + columns], rel=1e-5)
    flat = h[:, :, 0, 0]
    assert torch.equal(pooled(flat), pooled(flat[:, :, None, None]))
