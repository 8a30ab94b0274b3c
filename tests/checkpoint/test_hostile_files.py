"""Hostile, damaged and odd files: refused in a sentence, and nothing in them is run."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from others import MammothMLP, mammoth_checkpoint
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.checkpoint import format as files
from perdure.checkpoint.foreign import open_file
from perdure.errors import UserError


def state() -> dict[str, Tensor]:
    """A small network's weights."""
    torch.manual_seed(5)
    return dict(MLP((1, 4, 4), 3, (6,)).state_dict())


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Call:
    """Unpickling calls `function`, unless the unpickler knows better."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda run: Call(os.system, f"touch {run}"), id="system"),
        pytest.param(lambda run: Call(eval, f"open({str(run)!r}, 'w')"), id="eval"),
        pytest.param(lambda run: Call(open, str(run), "w"), id="open"),
        pytest.param(lambda run: Call(np.save, str(run), 0), id="numpy"),
        pytest.param(lambda run: Call(torch.save, 0, str(run)), id="torch"),
        pytest.param(lambda run: Call(getattr, Call(os.system, f"touch {run}"), "x"), id="nested"),
    ],
)
@pytest.mark.parametrize("old", [False, True], ids=["zip", "before-1.6"])
def test_code_is_refused_and_not_run(
    attack: Callable[[Path], Any], old: bool, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    content = {"model_state_dict": state(), "x": [attack(marker)]}
    path = save(tmp_path / "a.pt", content, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match=r"nothing in it was run: it asks for|before 1\.6"):
        open_file(path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_object_is_refused_by_its_name(tmp_path: Path) -> None:
    # Mammoth's --save_checkpoint_mode old_pickle.
    content = {**mammoth_checkpoint(MammothMLP()), "args": Namespace(lr=0.1)}
    with pytest.raises(UserError, match=r"asks for argparse\.Namespace; a checkpoint of state"):
        open_file(save(tmp_path / "a.pt", content))


def test_the_old_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    weights = state()
    path = save(tmp_path / "a.pt", weights, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="whose damage cannot be seen") as error:
        open_file(path)
    remedy = str(error.value).partition("if you trust it, ")[2].partition(" makes it")[0]
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(remedy, {"torch": torch})
    finally:
        os.chdir(before)
    assert same(open_file(tmp_path / "new.pt").weights, weights)


def rezip(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    """Write the entries of `path` anew, each by `change`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry, data in entries:
            change(archive, entry, data)


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
    ids=["deflate", "bzip2", "lzma"],
)
def test_a_compression_bomb_is_refused_unopened(
    method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.zeros(5_000_000)})
    rezip(path, lambda archive, entry, data: archive.writestr(entry.filename, data, method))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="refused: compressed"):
        open_file(path)


def twice(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    archive.writestr(entry.filename, data)
    archive.writestr(entry.filename, bytes(len(data)))


def larger_than_it_is(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    archive.writestr(entry.filename, data)
    if entry.filename.endswith("data/0"):
        archive.filelist[-1].file_size += 10_000


def as_a_folder(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    archive.writestr(entry.filename, data)
    if entry.filename.endswith("data/0"):
        archive.filelist[-1].external_attr = 0x10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(twice, "overlap", id="two-of-a-name"),
        pytest.param(larger_than_it_is, "overlap", id="too-large-entry"),
        pytest.param(as_a_folder, "folder", id="marked-as-folder"),
    ],
)
def test_an_odd_archive_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.ones(64)})
    rezip(path, lambda archive, entry, data: archive.writestr(entry.filename, data))
    assert torch.equal(open_file(path).weights["w"], torch.ones(64))
    rezip(path, change)
    with pytest.raises(UserError, match=words):
        open_file(path)


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.zeros(1000)})
    size = path.stat().st_size
    assert open_file(path, limit=size).weights
    with pytest.raises(UserError, match=f"more than the limit of {size - 1:,}"):
        open_file(path, limit=size - 1)


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
    monkeypatch.setattr("perdure.checkpoint.archive.MOST_VALUES", 10_000)
    path = save(tmp_path / "a.pt", {"w": torch.zeros(1), "x": content})
    assert path.stat().st_size < 5000
    with pytest.raises(UserError, match=words):
        open_file(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"model_state_dict": state()})
    data = path.read_bytes()
    for length in range(4, len(data), 23):
        path.write_bytes(data[:length])
        with pytest.raises(files.DamagedError, match="cut short"):
            open_file(path)


def test_no_flipped_bit_gives_other_numbers(tmp_path: Path) -> None:
    weights = state()
    path = save(tmp_path / "a.pt", {"model_state_dict": weights, "epoch": 3})
    data, refused = path.read_bytes(), 0
    for place in range(0, len(data), 11):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 7
        path.write_bytes(flipped)
        try:
            opened = open_file(path)
        except UserError:
            refused += 1
        else:  # it was in the padding
            assert opened.content["epoch"] == 3
            assert same(opened.weights, weights)
    assert refused > len(data) / 11 / 3


def program(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "a/constants.pkl", "a/code/x.py"):
            archive.writestr(name, b"")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda p: p.write_bytes(b""), "is empty", id="empty"),
        pytest.param(lambda p: p.write_text("weights"), "no file that torch.save", id="text"),
        pytest.param(lambda p: p.write_bytes(pickle.dumps({})), "no file that", id="pickle"),
        pytest.param(lambda p: np.savez(p.open("wb"), a=np.ones(2)), "no file that", id="npz"),
        pytest.param(program, "a TorchScript program", id="torchscript"),
        pytest.param(Path.mkdir, "no plain file", id="folder"),
        pytest.param(os.mkfifo, "no plain file", id="pipe"),
        pytest.param(lambda p: None, "there is no such file", id="nothing"),
        pytest.param(lambda p: p.symlink_to(p), "there is no such file", id="loop"),
    ],
)
def test_what_is_no_torch_file_is_refused(
    make: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.pt")
    with pytest.raises(UserError, match=words):
        open_file(tmp_path / "a.pt")


def test_an_error_of_the_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    path = save(tmp_path / "a.pt", state())
    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(UserError, match=r"a\.pt: cannot be read \(Input/output error\)"):
        open_file(path)
