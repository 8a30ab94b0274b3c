"""Batch norm over all ranks, on one: torch's own, forward, backward and running statistics."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from perdure.distributed.batch_norm import GlobalBatchNorm, synchronize
from perdure.distributed.process_group import Ranks


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(lambda: nn.BatchNorm1d(5), (7, 5), id="1d"),
        pytest.param(lambda: nn.BatchNorm2d(5, momentum=None), (4, 5, 3, 3), id="2d-mean"),
        pytest.param(lambda: nn.BatchNorm2d(5, affine=False), (4, 5, 3, 3), id="plain"),
        pytest.param(lambda: nn.BatchNorm1d(5, track_running_stats=False), (7, 5), id="forgetful"),
    ],
)
def test_it_is_torch_s(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    reference = nn.Sequential(make())
    for p in reference.parameters():
        nn.init.normal_(p)
    ours = deepcopy(reference)
    synchronize(ours, Ranks())
    assert isinstance(ours[0], GlobalBatchNorm)
    assert list(ours.state_dict()) == list(reference.state_dict())
    for _ in range(3):
        x = torch.randn(shape) * 3 + 1
        a, b = (x.clone().requires_grad_() for _ in range(2))
        weight = torch.randn(shape)
        (ours(a) * weight).sum().backward()
        (reference(b) * weight).sum().backward()
        torch.testing.assert_close(ours(x), reference(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)
    for p, q in zip(ours.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    x = torch.randn(shape)
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x), rtol=1e-5, atol=1e-5)


def test_parameters_and_buffers_stay_the_same_objects() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4)))
    before = [*network.parameters(), *network.buffers()]
    synchronize(network, Ranks())
    after = [*network.parameters(), *network.buffers()]
    assert all(a is b for a, b in zip(after, before, strict=True))
