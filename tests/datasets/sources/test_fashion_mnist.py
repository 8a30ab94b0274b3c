"""Fashion-MNIST: fetched, found in every usual place, damaged, and real."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.idx import decode_idx
from perdure.datasets.sources import FashionMNIST
from perdure.datasets.sources.fashion_mnist import Checksums
from perdure.errors import UserError

if TYPE_CHECKING:
    from tests.datasets.conftest import Server

DEBIAN = FashionMNIST.SYSTEM
Writer = Callable[[Any], bytes]
Same = Callable[[Arrays, Arrays], bool]
Put = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(scope="module")
def clothes(idx_bytes: Writer) -> dict[str, bytes]:
    """A tiny Fashion-MNIST: file name -> contents."""
    random = np.random.default_rng(0)
    return {
        f"{split}-{kind}": idx_bytes(random.integers(0, high, (n, *shape), np.uint8))
        for split, n in (("train", 12), ("t10k", 5))
        for kind, high, shape in (
            ("images-idx3-ubyte", 256, (28, 28)),
            ("labels-idx1-ubyte", 10, ()),
        )
    }


@pytest.fixture
def tiny_fashion(
    clothes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, server: Server
) -> FashionMNIST:
    checksums = {}
    for name, contents in clothes.items():
        packed = gzip.compress(contents)
        server.files[f"/{name}.gz"] = packed
        checksums[name] = Checksums(
            hashlib.md5(packed).hexdigest(), hashlib.sha256(contents).hexdigest()
        )
    monkeypatch.setattr(FashionMNIST, "FILES", checksums)
    return FashionMNIST(mirrors=[server.url("/")])


def expected(clothes: Mapping[str, bytes]) -> Arrays:
    train, test = (
        Split(
            torch.from_numpy(decode_idx(clothes[f"{split}-images-idx3-ubyte"], "")).unsqueeze(1),
            torch.from_numpy(decode_idx(clothes[f"{split}-labels-idx1-ubyte"], "")).long(),
        )
        for split in ("train", "t10k")
    )
    return Arrays(train, test, FashionMNIST.classes)


def put(folder: Path, files: Mapping[str, bytes], *, pack: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, contents in files.items():
        packed = gzip.compress(contents, 1) if pack else contents
        (folder / f"{name}.gz" if pack else folder / name).write_bytes(packed)
    return folder


def test_fashion_is_fetched_once(
    tiny_fashion: FashionMNIST,
    clothes: dict[str, bytes],
    server: Server,
    tmp_path: Path,
    same: Same,
) -> None:
    assert same(tiny_fashion.load(tmp_path), expected(clothes))
    assert len(server.requests) == 4
    assert tiny_fashion.fetch(tmp_path) == tmp_path / "perdure" / "fashion-mnist"
    assert same(FashionMNIST().load(tmp_path), expected(clothes))  # now without a network
    assert len(server.requests) == 4


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "fashion-mnist", "no-system-folder"])
def test_fashion_that_is_there_is_used_as_it_is(
    tiny_fashion: FashionMNIST,
    clothes: dict[str, bytes],
    server: Server,
    tmp_path: Path,
    layout: str,
    pack: bool,
    same: Same,
    put: Put,
) -> None:
    folder = put(tmp_path / layout, clothes, pack=pack)
    before = sorted(tmp_path.rglob("*"))
    assert same(tiny_fashion.load(tmp_path), expected(clothes))
    assert tiny_fashion.fetch(tmp_path) == folder
    assert sorted(tmp_path.rglob("*")) == before
    assert not server.requests


def test_an_incomplete_folder_is_passed_over(
    tiny_fashion: FashionMNIST, clothes: dict[str, bytes], tmp_path: Path, same: Same, put: Put
) -> None:
    folder = put(tmp_path / "FashionMNIST" / "raw", clothes)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert same(tiny_fashion.load(tmp_path), expected(clothes))


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "packed"])
def test_a_damaged_file_of_others_is_named_and_left_alone(
    tiny_fashion: FashionMNIST,
    clothes: dict[str, bytes],
    server: Server,
    tmp_path: Path,
    pack: bool,
    put: Put,
) -> None:
    wrong = {**clothes, "train-images-idx3-ubyte": clothes["train-images-idx3-ubyte"][:-1] + b"?"}
    folder = put(tmp_path / "FashionMNIST" / "raw", wrong, pack=pack)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=r"raw/train-images-idx3-ubyte(\.gz)? is damaged"):
        tiny_fashion.load(tmp_path)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert not server.requests


def test_our_own_damaged_file_is_fetched_again(
    tiny_fashion: FashionMNIST,
    clothes: dict[str, bytes],
    server: Server,
    tmp_path: Path,
    same: Same,
) -> None:
    folder = tiny_fashion.fetch(tmp_path)
    damaged = folder / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is damaged .*network") as no:
        FashionMNIST().load(tmp_path)
    assert "\n" not in str(no.value)
    assert damaged.exists()
    server.requests.clear()
    assert same(tiny_fashion.load(tmp_path), expected(clothes))
    assert [requested for requested, _ in server.requests] == ["/t10k-images-idx3-ubyte.gz"]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(FashionMNIST, "SYSTEM", DEBIAN)
    assert FashionMNIST().fetch(tmp_path) == DEBIAN
    arrays = FashionMNIST().load(tmp_path)
    assert arrays.train.x.shape == (60_000, 1, 28, 28)
    assert arrays.train.y.bincount().tolist() == [6_000] * 10
    assert arrays.test.y.bincount().tolist() == [1_000] * 10
    assert arrays.train.y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert round(arrays.train.x.double().mean().item() / 255, 4) == 0.2860
