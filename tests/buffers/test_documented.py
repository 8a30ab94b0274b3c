"""The policies that docs/buffers.md shows, and its table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perdure.buffers.base import Buffer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "buffers.md").read_text()
MakeFields = Callable[..., dict[str, Any]]


def shown() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(code, names)
    return names


def test_the_table_lists_every_policy() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M)
    files = {path.stem for path in (ROOT / "conf" / "buffer").glob("*.yaml")}
    assert sorted(listed) == sorted(files - {"none"})


def test_the_step_policy_keeps_the_newest(make_fields: MakeFields) -> None:
    buffer, first = Buffer(shown()["Newest"](5, 1)), 0
    for n in (2, 10, 3, 4):
        numbers, labels = np.arange(first, first + n), np.zeros(n, dtype=np.int64)
        buffer.add(make_fields(numbers, labels), labels, np.random.default_rng(0))
        first += n
        newest = set(range(max(0, first - 5), first))
        assert set(buffer.contents()["id"].tolist()) == newest


def test_the_task_policy_keeps_the_longest(make_fields: MakeFields) -> None:
    buffer = Buffer(shown()["Longest"](6, 1))
    assert buffer.policy.at_task_end
    for task in range(2):
        numbers, labels = np.arange(10 * task, 10 * task + 10), np.zeros(10, dtype=np.int64)
        info = {"features": torch.arange(10.0)[:, None]}
        buffer.add(make_fields(numbers, labels), labels, np.random.default_rng(0), task, info)
    assert buffer.contents()["id"].tolist() == [9, 8, 7, 19, 18, 17]
    other = Buffer(shown()["Longest"](4, 1))
    other.adopt(buffer.state_dict(), np.random.default_rng(0))
    assert len(other) == 4
