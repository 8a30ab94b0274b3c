"""Round trips and damage of the one file format."""

from __future__ import annotations

import json
import os
from collections import OrderedDict, deque
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.format import FORMAT, plain, read, remove, write
from perdure.errors import UserError


class Color(Enum):
    red = "red"


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
keys = st.one_of(st.text(), st.integers())
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)


@given(states)
def test_plain_values_stay_as_they_are(state: Any) -> None:
    assert plain(state) == state


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(deque([1, 2]), [1, 2], id="deque"),
        pytest.param({3, 1, 2}, [1, 2, 3], id="set"),
        pytest.param(Color.red, "red", id="enum"),
        pytest.param(Path("a/b"), "a/b", id="path"),
        pytest.param(np.float64(0.5), 0.5, id="numpy-scalar"),
        pytest.param(OrderedDict(a=1), {"a": 1}, id="ordered-dict"),
    ],
)
def test_other_types_become_plain(value: Any, expected: Any) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


def test_an_unknown_type_is_an_error_at_save_that_names_the_place() -> None:
    with pytest.raises(TypeError, match=r"state\['model'\]\[1\] is a object"):
        plain({"model": [1, object()]})


def test_a_view_is_written_without_its_storage(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", {"rows": torch.zeros(1_000_000)[:10]}, {})
    assert (tmp_path / "a.pt").stat().st_size < 10_000


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = {"x": torch.arange(5, dtype=torch.uint8), "deep": {1: [torch.randn(2, 2), "text"]}}
    write(path, state, {"position": {"task": 1}})
    back = read(path)
    assert torch.equal(back["x"], state["x"])
    assert torch.equal(back["deep"][1][0], state["deep"][1][0])
    about = json.loads(sidecars.path_of(path).read_text())
    assert about["position"] == {"task": 1}
    assert about["bytes"] == path.stat().st_size
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_tensor_saved_is_a_copy() -> None:
    x = torch.zeros(3)
    saved = plain({"x": x})
    x += 1
    assert torch.equal(saved["x"], torch.zeros(3))


@pytest.mark.parametrize("position", [0, 100, -1], ids=["first", "middle", "last"])
def test_a_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": torch.zeros(100)}, {})
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_without_its_sidecar_a_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": torch.zeros(1)}, {})
    sidecars.path_of(path).unlink()
    with pytest.raises(UserError, match="no checkpoint is committed"):
        read(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"bytes": "x", "format": 1}'], ids=str)
def test_a_garbage_sidecar_is_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": torch.zeros(1)}, {})
    sidecars.path_of(path).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {}, {})
    about = json.loads(sidecars.path_of(path).read_text())
    sidecars.path_of(path).write_text(json.dumps({**about, "format": FORMAT + 1}))
    with pytest.raises(UserError, match="newer"):
        read(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "a.pt"
    write(path, {}, {})
    torch.save({"x": Hostile()}, path)
    import hashlib

    data = path.read_bytes()
    about = json.loads(sidecars.path_of(path).read_text())
    about.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    sidecars.path_of(path).write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"nothing in it was run: it asks for \w+\.system"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_a_committed_name_is_never_used_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": 1}, {})
    with pytest.raises(FileExistsError):
        write(path, {"x": 2}, {})
    assert read(path)["x"] == 1


def test_a_leftover_without_sidecar_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"half a file")
    write(path, {"x": 2}, {})
    assert read(path)["x"] == 2


def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("perdure.io.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.pt", {"x": 1}, {})
    assert list(tmp_path.iterdir()) == []


def test_remove_takes_both_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, {"x": 1}, {})
    remove(path)
    assert list(tmp_path.iterdir()) == []
