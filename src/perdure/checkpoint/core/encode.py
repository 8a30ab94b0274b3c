"""Encode a state dictionary as tensors and plain types, for `torch.load(weights_only=True)`."""

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


def plain(value: Any, where: str = "state", reuse: Any = None) -> Any:
    """`value` made of tensors, dicts, lists, strings, numbers and None only.

    Tensors are copied to the host, in their dtype, just their elements (a view of a large storage
    would write all of it); this waits for their device.

    Args:
        value: what to encode.
        where: its name, for errors.
        reuse: the result of an earlier call: its tensors are filled again where shape and dtype are
            the same, which is several times faster than fresh memory.

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
        return _copy(value.detach(), reuse)
    if isinstance(value, Mapping):
        before = reuse if isinstance(reuse, dict) else {}
        return {
            plain(k, where): plain(v, f"{where}[{k!r}]", before.get(k)) for k, v in value.items()
        }
    if isinstance(value, tuple):
        return tuple(_each(value, where, reuse))
    if isinstance(value, list | deque):
        return _each(value, where, reuse)
    if isinstance(value, set | frozenset):
        return sorted(plain(v, where) for v in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, PurePath | date | datetime):
        return str(value)
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _copy(value: torch.Tensor, reuse: Any) -> torch.Tensor:
    if (
        isinstance(reuse, torch.Tensor)
        and reuse.shape == value.shape
        and reuse.dtype == value.dtype
        and reuse.is_contiguous()
    ):
        return reuse.copy_(value)
    return value.to("cpu", copy=True).contiguous()


def _each(values: Sequence[Any] | deque[Any], where: str, reuse: Any) -> list[Any]:
    before = reuse[: len(values)] if isinstance(reuse, list | tuple) else ()
    pairs = zip_longest(values, before)
    return [plain(v, f"{where}[{i}]", b) for i, (v, b) in enumerate(pairs)]
