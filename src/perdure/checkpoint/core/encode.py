"""Any state as tensors and plain types, which `torch.load(weights_only=True)` opens."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from itertools import zip_longest
from pathlib import PurePath
from typing import Any

import numpy as np
import torch


def plain(value: Any, where: str = "state", kept: Any = None) -> Any:
    """`value` made of tensors, dicts, lists, strings, numbers and None only.

    Tensors come to the host as copies of just their elements (a view of a large storage would
    write all of it). `kept` is what an earlier call gave: its tensors are filled again where they
    fit, which is several times faster than fresh memory.

    Raises:
        TypeError: a part has no such form; the message names it.
    """
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, torch.Tensor):
        return _copy(value.detach(), kept)
    if isinstance(value, Mapping):
        before = kept if isinstance(kept, dict) else {}
        return {
            plain(k, where): plain(v, f"{where}[{k!r}]", before.get(k)) for k, v in value.items()
        }
    if isinstance(value, tuple):
        return tuple(_each(value, where, kept))
    if isinstance(value, list | deque):
        return _each(value, where, kept)
    if isinstance(value, set | frozenset):
        return sorted(plain(v, where) for v in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, PurePath | date | datetime):
        return str(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _copy(value: torch.Tensor, kept: Any) -> torch.Tensor:
    if (
        isinstance(kept, torch.Tensor)
        and kept.shape == value.shape
        and kept.dtype == value.dtype
        and kept.is_contiguous()
    ):
        return kept.copy_(value)
    return value.to("cpu", copy=True).contiguous()


def _each(values: Sequence[Any] | deque[Any], where: str, kept: Any) -> list[Any]:
    before = kept[: len(values)] if isinstance(kept, list | tuple) else ()
    pairs = zip_longest(values, before)
    return [plain(v, f"{where}[{i}]", b) for i, (v, b) in enumerate(pairs)]
