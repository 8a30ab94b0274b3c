"""RanPAC: plain ridge regression on projected features, and the ridge that a loop would choose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.models.memory import Memory
from perdure.models.ranpac import RIDGES, RanPAC

Digits = Callable[..., Batch]


def trained(tasks: list[Batch], random_projection: bool = True) -> RanPAC:
    torch.manual_seed(0)
    method = RanPAC(MLP((1, 28, 28), 10, (12,)), 20, random_projection, 0)
    for seed, batch in enumerate(tasks):
        torch.manual_seed(seed)
        part = [batch.part(i, i + 11) for i in range(0, len(batch), 11)]
        method.after_task(lambda n, part=part: part, Memory(None, batch.transform))  # type: ignore[misc]
    method.before_evaluation(Memory(None, tasks[0].transform), lambda n: ())
    return method


def expanded(method: RanPAC, x: Tensor) -> Tensor:
    f = method.backbone.features(x).detach()
    return ((f @ method.R).clamp(min=0) if method.random_projection else f).double()


@pytest.mark.parametrize("random_projection", [True, False])
def test_it_is_ridge_regression_on_all_examples(random_projection: bool, digits: Digits) -> None:
    tasks = [digits(0, 40, 0, 1), digits(0, 40, 2, 3), digits(40, 80, 1, 2)]
    method = trained(tasks, random_projection)
    x, y = torch.cat([b.x for b in tasks]), torch.cat([b.y for b in tasks])
    h, targets = expanded(method, x), torch.eye(10, dtype=torch.float64)[y]
    regular = h.T @ h + method.ridge * torch.eye(h.shape[1]).double()
    weight = torch.linalg.solve(regular, h.T @ targets)
    test = digits(0, 60)
    scores = method.predict(test.x)[:, :4]
    expected = (expanded(method, test.x) @ weight)[:, :4].float()
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_the_ridge_is_that_of_the_least_error_on_a_fifth_of_the_task(digits: Digits) -> None:
    """Of the current task alone, shuffled, whatever came before."""
    tasks = [digits(0, 40, 0, 1), digits(0, 38, 2, 3)]
    method = trained(tasks)
    torch.manual_seed(1)
    order = torch.randperm(38)
    h, targets = expanded(method, tasks[1].x)[order], torch.eye(10).double()[tasks[1].y][order]
    errors = []
    for ridge in RIDGES:
        regular = h[:31].T @ h[:31] + ridge * torch.eye(20).double()
        weight = torch.linalg.solve(regular, h[:31].T @ targets[:31])
        errors.append(((h[31:] @ weight - targets[31:]) ** 2).mean().item())
    assert method.ridge.item() == RIDGES[errors.index(min(errors))]
    assert RIDGES[0] < method.ridge.item() < RIDGES[-1], "or the choice shows nothing"


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_contract_of_a_method(base_epochs: int) -> None:
    options = {"projection": 20, "random_projection": True, "base_epochs": base_epochs}
    check_method(RanPAC, options)
