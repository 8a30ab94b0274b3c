"""Unpickling: arrays come out, and nothing runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perdure.datasets.sources.pickles import load_plain_pickle
from perdure.errors import UserError


def test_arrays_of_python_2_come_out(python2_pickle: Callable[[Any], bytes]) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = python2_pickle({"data": pixels, "labels": [3, 1], "filenames": ["a.png", "\xe9.png"]})
    assert b"numpy.core.multiarray" in data
    batch = load_plain_pickle(data, "batch")
    np.testing.assert_array_equal(batch["data"], pixels)
    assert batch["data"].dtype == np.uint8
    assert batch["labels"] == [3, 1]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this ran",)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(_Bomb(), id="builtin"),
        pytest.param(Path("x"), id="object"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_pickle_runs_anything(
    value: object, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pickle.dumps({"data": value}, protocol)
    with pytest.raises(UserError, match=r"batch is damaged .*it asks for"):
        load_plain_pickle(data, "batch")
    assert not capsys.readouterr().out


def test_a_pickle_of_something_else_is_named() -> None:
    with pytest.raises(UserError, match=r"batch is damaged .*holds a list"):
        load_plain_pickle(pickle.dumps([1]), "batch")
    with pytest.raises(UserError, match="batch is damaged"):
        load_plain_pickle(pickle.dumps({"a": 1})[:-3], "batch")
