"""Arrays that no scenario could use are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from perdure.datasets.arrays import Arrays, Split
from perdure.errors import UserError


def _split(n: int = 2, label: int = 0) -> Split:
    return Split(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.full((n,), label))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: Split(torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)),
            r"uint8 \[N, C, H, W\], not float32 \[2, 1, 2, 2\]",
            id="float-images",
        ),
        pytest.param(
            lambda: Split(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2).long()),
            r"not uint8 \[2, 2\]",
            id="flat-images",
        ),
        pytest.param(
            lambda: Split(_split(2).x, torch.zeros(3, dtype=torch.int64)),
            r"int64 \[2\], one an image, not int64 \[3\]",
            id="label-count",
        ),
        pytest.param(
            lambda: Split(_split(2).x, torch.zeros(2)), r"not float32 \[2\]", id="float-labels"
        ),
        pytest.param(
            lambda: Arrays(_split(), _split(label=2), ("a", "b")),
            "test labels run from 2 to 2, but there are 2 classes",
            id="label-beyond",
        ),
        pytest.param(
            lambda: Arrays(_split(label=-1), _split(), ("a",)),
            "training labels run from -1",
            id="label-negative",
        ),
        pytest.param(
            lambda: Arrays(_split(), _split(0), ("a",)),
            "test split holds no examples",
            id="empty",
        ),
    ],
)
def test_arrays_that_no_scenario_could_use_are_refused(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make()
