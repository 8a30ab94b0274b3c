"""Places of a class in a buffer: its share of `buffer.size`, or `buffer.per_class`."""

from __future__ import annotations

import numpy as np

from perdure.errors import UserError


def capacity(size: int, per_class: int | None, n_classes: int | None) -> int:
    """Examples that a buffer can hold.

    Args:
        size: `buffer.size`, which counts where `per_class` is None.
        per_class: `buffer.per_class`, places of each class of the benchmark.
        n_classes: of the benchmark; needed with `per_class`.

    Raises:
        UserError: the quota is not positive.
        ValueError: the number of classes is not given.
    """
    if per_class is None:
        return size
    if per_class < 1:
        raise UserError(f"buffer.per_class={per_class}: must be an integer, 1 or more")
    if n_classes is None:
        raise ValueError("per_class needs n_classes, the number of classes of the benchmark")
    return per_class * n_classes


def share(size: int, per_class: int | None, groups: int, of: str = "classes") -> int:
    """Places of each of `groups` groups: `per_class`, or ⌊size / groups⌋.

    Raises:
        UserError: there are fewer places than groups.
    """
    if per_class is not None:
        return per_class
    if size < groups:
        raise UserError(
            f"buffer.size={size}: must be {groups} or more, one place for each of the {groups} {of}"
        )
    return size // groups


def occurrences(keys: np.ndarray, seen: dict[int, int]) -> np.ndarray:
    """For each row the how-manyth of its key it is, from 1; counts them in `seen`.

    Args:
        keys: int64 [B].
        seen: how often each key has come before; brought up to date.

    Returns:
        int64 [B].
    """
    by_key = np.argsort(keys, kind="stable")
    _, first, counts = np.unique(keys[by_key], return_index=True, return_counts=True)
    order = np.empty(len(keys), dtype=np.int64)
    order[by_key] = np.arange(len(keys)) - np.repeat(first, counts) + 1
    for start, count in zip(first.tolist(), counts.tolist(), strict=True):
        key = int(keys[by_key[start]])
        before = seen.get(key, 0)
        order[by_key[start : start + count]] += before
        seen[key] = before + count
    return order
