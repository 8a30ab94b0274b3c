"""What a file that loads may hold: values that end no process, fill no memory and do nothing."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.hostile import Call, prove, refuse, rezip, save
from kit import assert_same

from perdure.checkpoint.core import archive
from perdure.checkpoint.core import format as files
from perdure.checkpoint.interop.foreign import open_file


def doubled(times: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return value


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(torch.zeros(1).expand(10**6, 10**6), "more than the limit", id="stride-0"),
        pytest.param(doubled(40), "nested beyond", id="doubled"),
        pytest.param(nested(200), "nested beyond", id="deep"),
        pytest.param(Call(bytearray, 2**62), "damaged", id="allocation"),
    ],
)
def test_what_unfolds_is_refused(
    content: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.checkpoint.core.archive.MOST_VALUES", 10_000)
    path = save(tmp_path / "a.pt", {"w": torch.zeros(1), "x": content})
    assert path.stat().st_size < 5000
    refuse(path, words)


def pickled(path: Path, program: bytes) -> Path:
    """A file whose values are what the instructions `program` make."""
    save(path, {"w": torch.zeros(1)})

    def change(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        archive.writestr(entry.filename, program if entry.filename.endswith("data.pkl") else data)

    rezip(path, change)
    return path


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(b")" + b"\x85" * 10**6 + b"K\x01s", id="key-of-tuples"),
        pytest.param(b")q\x01" + b"\x85q\x01h\x01\x86q\x01" * 10**5 + b"K\x01s", id="by-memo"),
        pytest.param(b"K\x01" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s", id="lists"),
        pytest.param(b"K\x01" + b"\x8a\xff" * 5000, id="half"),
    ],
)
def test_nesting_without_end_does_not_end_the_process(program: bytes, tmp_path: Path) -> None:
    # Hashing a tuple of a million tuples overflows the C stack.
    refuse(pickled(tmp_path / "a.pt", b"\x80\x02}" + program + b"."), "nested beyond|damaged")


def test_too_many_values_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.checkpoint.core.archive.MOST_VALUES", 1000)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    program = b"\x80\x02}K\x01]" + b"}a" * 10**5 + b"s."
    refuse(pickled(tmp_path / "a.pt", program), "nested beyond")


def function(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch FloatTensor",
        "torch.nn.parameter Parameter",
        "collections OrderedDict",
        "_codecs encode",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda f: b"X\x01\x00\x00\x00x" + f + b"s", id="value"),
        pytest.param(lambda f: b"X\x01\x00\x00\x00x]" + f + b"as", id="in-a-list"),
        pytest.param(lambda f: b"X\x01\x00\x00\x00x" + f + b"\x85s", id="in-a-tuple"),
        pytest.param(lambda f: f + b"K\x01s", id="key"),
        pytest.param(lambda f: f + b"\x85K\x01s", id="key-in-a-tuple"),
    ],
)
def test_a_function_or_class_is_no_value(
    name: str, place: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = pickled(tmp_path / "a.pt", b"\x80\x02}" + place(function(name)) + b".")
    refuse(path, "nothing in it was run: it (holds|asks for)")


def test_attributes_are_left_behind(tmp_path: Path) -> None:
    """A file may set an attribute where OrderedDict and Tensor have a method."""
    odd = function("collections OrderedDict") + b")R}X\x05\x00\x00\x00itemsK\x03sb"
    program = b"\x80\x02}X\x01\x00\x00\x00x" + odd + b"s."
    assert archive.load(pickled(tmp_path / "a.pt", program)) == {"x": {}}
    tensor = torch.nn.Parameter(torch.ones(3))
    tensor.clone = 5  # type: ignore[assignment, method-assign]
    read = archive.load(save(tmp_path / "b.pt", {"x": tensor}))["x"]
    assert torch.equal(read.clone(), torch.ones(3))
    assert not read.requires_grad


def test_a_number_of_many_digits_is_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "a.pt", {"w": torch.ones(1), "n": 1 << 2000}), "1024 bits")


def test_a_dictionary_of_tensors_by_tensors_is_refused(tmp_path: Path) -> None:
    refuse(save(tmp_path / "a.pt", {"w": torch.ones(1), torch.ones(1): 1}), "keyed by tensors")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"a": torch.tensor(3.0), "b": torch.zeros(0, 4)}, id="0-dim-and-empty"),
        pytest.param({"a": torch.ones(3, dtype=torch.bfloat16)}, id="bfloat16"),
        pytest.param({"a": torch.ones(3, dtype=torch.complex64)}, id="complex"),
        pytest.param({"a": torch.ones(1).expand(50, 50)}, id="stride-0"),
        pytest.param({"a": [(1, 2.0, None, True, b"x", "y")], "n": -(2**127)}, id="plain"),
        pytest.param({"a": {1: {"x": 1}, (0, "b"): 2}}, id="keys"),
        pytest.param({"a": torch.Size([2, 3]), "d": torch.float16, "c": 1j}, id="torch-values"),
        pytest.param({"a": {1, 2}, "o": OrderedDict(z=1, a=2)}, id="containers"),
    ],
)
def test_what_a_checkpoint_holds_still_loads(content: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path / "gewöhnlich.pt", content)
    prove(path)
    assert_same(files.read(path), content)
    assert {k: type(v) for k, v in files.read(path).items()} == {
        k: type(v) for k, v in content.items()
    }


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    tensor = torch.ones(4)
    content = {"a": tensor, "b": tensor, "view": tensor[:2]}
    read = open_file(save(tmp_path / "a.pt", content)).content
    read["a"][0] = 7
    assert read["b"] is read["a"]
    assert read["view"][0] == 7
