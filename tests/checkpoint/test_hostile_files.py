"""Hostile, damaged and odd files: refused in a sentence, and nothing in them is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import zipfile
from argparse import Namespace
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint.hostile import Call, prove, refuse, rezip, same, save, state
from others import MammothMLP, mammoth_checkpoint

from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.archive import TooLargeError
from perdure.checkpoint.interop.foreign import open_file
from perdure.errors import UserError


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
    refuse(path, r"nothing in it was run: it asks for|before 1\.6")
    assert list(tmp_path.iterdir()) == [path]


def test_an_object_is_refused_by_its_name(tmp_path: Path) -> None:
    # Mammoth's --save_checkpoint_mode old_pickle.
    content = {**mammoth_checkpoint(MammothMLP()), "args": Namespace(lr=0.1)}
    with pytest.raises(UserError, match=r"asks for argparse\.Namespace; a checkpoint of state"):
        open_file(save(tmp_path / "a.pt", content))


def test_the_old_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    weights = state()
    path = save(tmp_path / "a.pt", weights, _use_new_zipfile_serialization=False)
    refuse(path, "whose damage cannot be seen")
    with pytest.raises(UserError) as error:
        open_file(path)
    remedy = str(error.value).partition("if you trust it, ")[2].partition(" makes it")[0]
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        exec(remedy, {"torch": torch})
    finally:
        os.chdir(before)
    assert same(open_file(tmp_path / "new.pt").weights, weights)


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
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    refuse(path, "refused: compressed")


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


def commented(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    archive.writestr(entry.filename, data)
    archive.comment = b"hello"


def in_two_cases(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
    archive.writestr(entry.filename, data)
    archive.writestr(entry.filename.upper(), data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(twice, "overlap", id="two-of-a-name"),
        pytest.param(larger_than_it_is, "overlap", id="too-large-entry"),
        pytest.param(as_a_folder, "folder", id="marked-as-folder"),
        pytest.param(commented, "with a comment", id="commented"),
        pytest.param(in_two_cases, "overlap", id="two-of-a-name-but-for-case"),
    ],
)
def test_an_odd_archive_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.ones(64)})
    rezip(path, lambda archive, entry, data: archive.writestr(entry.filename, data))
    assert torch.equal(open_file(path).weights["w"], torch.ones(64))
    rezip(path, change)
    refuse(path, words)


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.zeros(1000)})
    size = path.stat().st_size
    assert open_file(path, limit=size).weights
    words = f"more than the limit of {size - 1:,}; checkpoint.max_gigabytes="
    for with_sidecar in (False, True):
        if with_sidecar:
            prove(path)
        with pytest.raises(TooLargeError, match=words):
            open_file(path, limit=size - 1)
    with pytest.raises(TooLargeError, match=words):
        files.read(path, limit=size - 1)
    assert files.read(path, limit=size).keys() == {"w"}


def overlapping(path: Path) -> None:
    """Two entries of the directory that lie in the same bytes."""
    with zipfile.ZipFile(path, "a") as archive:
        entry = next(e for e in archive.filelist if e.filename.endswith("data/0"))
        other = copy(entry)
        other.filename = other.orig_filename = entry.filename[:-1] + "1"
        archive.filelist.append(other)
        archive._didModify = True  # type: ignore[attr-defined]


def prefixed(path: Path) -> None:
    """What a reader that looks from the end takes for an archive, and one from the start does."""
    path.write_bytes(b"PK\x03\x04" + bytes(60) + path.read_bytes())


@pytest.mark.parametrize("change", [overlapping, prefixed])
def test_an_archive_that_two_readers_see_in_two_ways_is_refused(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = save(tmp_path / "a.pt", {"w": torch.ones(64)})
    change(path)
    refuse(path, "overlap|where it should be|begins with something else")


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


def test_a_pipe_with_a_sidecar_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    os.mkfifo(path)
    about = {"format": 1, "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    sidecars.path_of(path).write_text(json.dumps(about))
    messages: list[str] = []

    def read() -> None:
        for one in (files.read, files.verify):
            with pytest.raises(UserError) as caught:
                one(path)
            messages.append(str(caught.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert ["not an ordinary file" in one for one in messages] == [True, True]


def test_an_error_of_the_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    path = save(tmp_path / "a.pt", state())
    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(UserError, match=r"a\.pt: cannot be read \(Input/output error\)"):
        open_file(path)
