"""DS-AL: the second stream is a ridge regression on cleansed residuals; without it ACIL."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit import check_method

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.models.acil import ACIL
from perdure.models.base import Task
from perdure.models.ds_al import DSAL
from perdure.models.memory import Memory

Digits = Callable[..., Batch]
OPTIONS = {"gamma_compensation": 0.3, "compensation": 0.6}


def trained(kind: type[ACIL], tasks: list[Batch], **options: float) -> ACIL:
    torch.manual_seed(0)
    method = kind(MLP((1, 28, 28), 10, (12,)), 20, gamma=0.1, base_epochs=0, **options)
    for t, batch in enumerate(tasks):
        method.task = Task(t, Classes((2 * t, 2 * t + 1)), Classes(range(2 * t + 2)))
        part = [batch.part(i, i + 11) for i in range(0, len(batch), 11)]
        method.after_task(lambda n, part=part: part, Memory(None, batch.transform))  # type: ignore[misc]
    return method


def test_the_second_stream_fits_what_the_first_leaves_of_new_classes(digits: Digits) -> None:
    tasks = [digits(0, 40, 0, 1), digits(0, 40, 2, 3), digits(0, 40, 4, 5)]
    method = trained(DSAL, tasks, **OPTIONS)
    assert isinstance(method, DSAL)
    seconds, residuals = [], []
    for t, batch in enumerate(tasks):
        f = method.backbone.features(batch.x).detach()
        main = trained(ACIL, tasks[: t + 1]).main.W  # when the task has ended, not later
        left = torch.eye(10, dtype=torch.float64)[batch.y]
        left = left - (f @ method.R).clamp(min=0).double() @ main
        left[:, : 2 * t] = 0
        seconds.append((f @ method.R).tanh().double())
        residuals.append(left)
    h, targets = torch.cat(seconds), torch.cat(residuals)
    expected = torch.linalg.solve(h.T @ h + 0.3 * torch.eye(20).double(), h.T @ targets)
    assert (method.second.W - expected).abs().max() < 1e-6

    x = digits(0, 50).x
    f = method.backbone.features(x)
    scores = (f @ method.R).relu().double() @ method.main.W
    scores = scores + 0.6 * (f @ method.R).tanh().double() @ expected
    found = method.predict(x)[:, :6]
    torch.testing.assert_close(found, scores[:, :6].float(), rtol=1e-4, atol=1e-4)


def test_without_compensation_it_is_acil(digits: Digits) -> None:
    tasks, x = [digits(0, 40, 0, 1), digits(0, 40, 2, 3)], digits(0, 50).x
    plain = trained(DSAL, tasks, gamma_compensation=0.3, compensation=0.0).predict(x)
    assert torch.equal(plain, trained(ACIL, tasks).predict(x))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma_compensation": 0.0}, r"model\.gamma_compensation=0\.0"),
        ({"compensation": -1.0}, r"model\.compensation=-1\.0"),
    ],
)
def test_values_that_make_no_sense_are_refused(changed: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(DSAL, [], **{**OPTIONS, **changed})


def test_the_contract_of_a_method() -> None:
    check_method(DSAL, {"projection": 20, "gamma": 0.1, "base_epochs": 0, **OPTIONS})
