"""Which cases of a long list every run of the tests takes, and which are run on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def cases(every: Iterable[Any], often: Collection[Any]) -> list[Any]:
    """The cases as parameters; those that are not in `often` under `-m exhaustive` alone.

    Where many cases take the same way through the code, one of each way is enough for a change.
    """
    every = list(every)
    unknown = [case for case in often if case not in every]
    if unknown:
        raise ValueError(f"{unknown}: must be of {every}")
    return [
        case if case in often else pytest.param(*_values(case), marks=pytest.mark.exhaustive)
        for case in every
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
