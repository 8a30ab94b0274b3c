"""The embedded MNIST, whole and real."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.datasets import sources
from perdure.datasets.arrays import Arrays
from perdure.datasets.sources import MNIST
from perdure.errors import UserError

Same = Callable[[Arrays, Arrays], bool]

pytestmark = pytest.mark.usefixtures("offline")

MNIST_FILES = Path(sources.__file__).parents[1] / "data" / "mnist"


@pytest.fixture(scope="module")
def mnist() -> Arrays:
    return MNIST().load(Path("no/such/folder"))


def test_mnist_is_whole(mnist: Arrays) -> None:
    assert mnist.train.x.shape == (60_000, 1, 28, 28)
    assert mnist.test.x.shape == (10_000, 1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    assert mnist.train.y.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert mnist.test.y.bincount().tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        pytest.param(name, sha256, id=name)
        for name, sha256 in {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738"
            "ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5"
            "333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77"
            "db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351"
            "222c34898ecbeaf847f06e48f7ec33f2",
        }.items()
    ],
)
def test_mnist_files_are_the_published_ones(name: str, sha256: str) -> None:
    contents = gzip.decompress((MNIST_FILES / f"{name}.gz").read_bytes())
    assert hashlib.sha256(contents).hexdigest() == sha256


def test_mnist_pixels_are_where_the_file_has_them(mnist: Arrays) -> None:
    contents = gzip.decompress((MNIST_FILES / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert mnist.test.x[7, 0, 13].tolist() == list(contents[16 + 7 * 784 + 13 * 28 :][:28])


def test_mnist_needs_neither_network_nor_folder(
    mnist: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Same
) -> None:
    monkeypatch.delattr(socket, "socket")
    monkeypatch.chdir(tmp_path)
    MNIST().fetch(tmp_path / "data")
    assert same(MNIST().load(tmp_path / "data"), mnist)
    assert not list(tmp_path.iterdir())


def test_mnist_tells_which_installed_file_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "mnist"
    shutil.copytree(MNIST_FILES, folder)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    damaged = folder / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is damaged"):
        MNIST().load(tmp_path)
    damaged.unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz is missing"):
        MNIST().load(tmp_path)
