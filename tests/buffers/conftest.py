"""Examples that differ, and generators whose draws can be seen or chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

Fields = dict[str, Tensor]


def example_fields(ids: Any, labels: np.ndarray) -> Fields:
    """Fields that all tell the example's number: images, logits, and the number itself."""
    numbers = torch.as_tensor(np.asarray(ids), dtype=torch.int64)
    digits = torch.stack([numbers // 256**place % 256 for place in range(4)], 1)
    return {
        "raw": digits.to(torch.uint8).view(-1, 1, 2, 2),
        "y": torch.from_numpy(np.asarray(labels, dtype=np.int64)),
        "logits": numbers[:, None] + torch.tensor([0.25, 0.5]),
        "id": numbers,
    }


@pytest.fixture(scope="session")
def make_fields() -> Callable[[Any, np.ndarray], Fields]:
    return example_fields


class Watched:
    """A generator that writes down what it gives."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.integers_drawn: list[int] = []
        self.uniforms_drawn: list[np.ndarray] = []

    def integers(self, *args: Any, **kwargs: Any) -> np.ndarray:
        drawn = self.generator.integers(*args, **kwargs)
        self.integers_drawn.extend(np.ravel(drawn).tolist())
        return drawn

    def random(self, *args: Any, **kwargs: Any) -> np.ndarray:
        drawn = self.generator.random(*args, **kwargs)
        self.uniforms_drawn.append(drawn)
        return drawn


@pytest.fixture(scope="session")
def watched() -> type[Watched]:
    return Watched
