"""Unpacking: nothing escapes, and a folder appears whole or not at all."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from perdure.datasets.sources.archive import extract
from perdure.errors import UserError


def _pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, contents in members:
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return path


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.SYMTYPE
    member.linkname = target
    return member


def test_nothing_in_an_archive_escapes(tmp_path: Path) -> None:
    archive = _pack(
        tmp_path / "a.tar.gz",
        (tarfile.TarInfo("../outside"), b"1"),
        (tarfile.TarInfo(f"{tmp_path}/absolute"), b"2"),
        (_link("in/link", str(tmp_path)), b""),
        (tarfile.TarInfo("in/link/through"), b"3"),
        (tarfile.TarInfo("in/more"), b"4"),
        (tarfile.TarInfo("in/good"), b"5"),
    )
    extract(archive, "in", ["good"], tmp_path / "deep" / "out", has_lock=True)
    files = [file for file in tmp_path.rglob("*") if file.is_file() or file.is_symlink()]
    assert sorted(files) == [archive, tmp_path / "deep" / "out" / "good"]
    assert (tmp_path / "deep" / "out" / "good").read_bytes() == b"5"


@pytest.mark.parametrize(
    "member", [tarfile.TarInfo("in/other"), _link("in/good", "/etc/passwd")], ids=["absent", "link"]
)
def test_an_archive_without_a_wanted_file_leaves_nothing(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    archive = _pack(tmp_path / "a.tar.gz", (member, b""))
    with pytest.raises(UserError, match=r"a\.tar\.gz is damaged .*holds no in/good"):
        extract(archive, "in", ["good"], tmp_path / "out", has_lock=True)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("keep", [0, 30, 5_000], ids=["empty", "early", "late"])
def test_a_torn_archive_leaves_the_old_folder(tmp_path: Path, keep: int) -> None:
    archive = _pack(
        tmp_path / "a.tar.gz", (tarfile.TarInfo("in/good"), random.Random(0).randbytes(9_000))
    )
    archive.write_bytes(archive.read_bytes()[:keep])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "good").write_bytes(b"old")
    with pytest.raises(UserError, match=r"a\.tar\.gz is damaged"):
        extract(archive, "in", ["good"], tmp_path / "out", has_lock=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    assert (tmp_path / "out" / "good").read_bytes() == b"old"
