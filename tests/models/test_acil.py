"""ACIL: the ridge regression on the examples of all tasks at once, whatever the order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.models.acil import ACIL
from perdure.models.memory import Memory

Digits = Callable[..., Batch]
PAIRS = [(0, 1), (2, 3), (4, 5)]


def trained(tasks: list[Batch]) -> ACIL:
    torch.manual_seed(0)
    method = ACIL(MLP((1, 28, 28), 10, (12,)), 20, 0.1, 0)
    for batch in tasks:
        part = [batch.part(i, i + 11) for i in range(0, len(batch), 11)]
        method.after_task(lambda n, part=part: part, Memory(None, batch.transform))  # type: ignore[misc]
    return method


def joint(method: ACIL, tasks: list[Batch]) -> Tensor:
    """From the definition, of all examples at once."""
    x, y = torch.cat([b.x for b in tasks]), torch.cat([b.y for b in tasks])
    h = (method.backbone.features(x) @ method.R).clamp(min=0).detach().double()
    target = torch.zeros(len(y), 10, dtype=torch.float64)
    target[torch.arange(len(y)), y] = 1
    return torch.linalg.solve(h.T @ h + 0.1 * torch.eye(20).double(), h.T @ target)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_it_is_joint_ridge_whatever_the_order(order: tuple[int, ...], digits: Digits) -> None:
    tasks = [digits(0, 40, *PAIRS[i]) for i in order]
    method = trained(tasks)
    expected = joint(method, tasks)
    assert (method.main.W - expected).abs().max() < 1e-6
    assert (method.main.W[:, 6:] == 0).all()
    test = digits(0, 50)
    h = (method.backbone.features(test.x) @ method.R).clamp(min=0)
    scores = method.predict(test.x)[:, :6]
    torch.testing.assert_close(scores, h @ expected[:, :6].float(), rtol=1e-4, atol=1e-4)


def test_a_class_that_comes_again_counts_with_all_its_examples(digits: Digits) -> None:
    tasks = [digits(0, 30, 0, 1), digits(30, 60, 1, 2)]
    method = trained(tasks)
    assert (method.main.W - joint(method, tasks)).abs().max() < 1e-6


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_contract_of_a_method(base_epochs: int) -> None:
    check_method(ACIL, {"projection": 20, "gamma": 0.1, "base_epochs": base_epochs})
