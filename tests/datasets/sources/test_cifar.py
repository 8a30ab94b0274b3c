"""CIFAR-10 and CIFAR-100: small data in the real formats, fetched, found and damaged."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.sources import CIFAR10, CIFAR100
from perdure.datasets.sources.cifar import Archive, Layout
from perdure.errors import UserError

if TYPE_CHECKING:
    from tests.datasets.conftest import Server

Writer = Callable[[Any], bytes]
Same = Callable[[Arrays, Arrays], bool]
Put = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("offline")


LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}


class Photographs:
    """A tiny CIFAR: per batch 3 images, in the binary and in the pickled format."""

    def __init__(self, source: type[CIFAR10 | CIFAR100], python2_pickle: Writer) -> None:
        random = np.random.default_rng(1)
        self.binary: dict[str, bytes] = {}
        self.pickled: dict[str, bytes] = {}
        self.pixels: list[np.ndarray[Any, Any]] = []
        self.labels: list[list[int]] = []
        names = zip(source.BINARY.checksums, source.PICKLED.checksums, strict=True)
        for binary, pickled in names:
            pixels = random.integers(0, 256, (3, 3072), np.uint8)
            labels = random.integers(0, source.n_classes, 3).tolist()
            coarse = b"" if source is CIFAR10 else b"\x07"
            self.binary[binary] = b"".join(
                coarse + bytes([label]) + image.tobytes()
                for label, image in zip(labels, pixels, strict=True)
            )
            batch = {
                "batch_label": "a batch",
                LABELS[source.name]: labels,
                "data": pixels,
                "filenames": ["a.png", "b.png", "c.png"],
            }
            self.pickled[pickled] = python2_pickle(batch)
            self.pixels.append(pixels)
            self.labels.append(labels)
        self.classes = source.classes
        self.folder = source.BINARY.folder

    def archive(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, contents in {**self.binary, "readme.html": b"<html>"}.items():
                member = tarfile.TarInfo(f"{self.folder}/{name}")
                member.size = len(contents)
                tar.addfile(member, io.BytesIO(contents))
        return packed.getvalue()

    def arrays(self) -> Arrays:
        pixels = [torch.from_numpy(each).reshape(-1, 3, 32, 32) for each in self.pixels]
        labels = [torch.tensor(each) for each in self.labels]
        return Arrays(
            Split(torch.cat(pixels[:-1]), torch.cat(labels[:-1])),
            Split(pixels[-1], labels[-1]),
            self.classes,
        )


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest) -> type[CIFAR10 | CIFAR100]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def photos(
    cifar: type[CIFAR10 | CIFAR100],
    python2_pickle: Writer,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Photographs:
    """Tiny data on the server, and the source's checksums those of the tiny data."""
    tiny = Photographs(cifar, python2_pickle)
    packed = tiny.archive()
    server.files[f"/mirror/{cifar.ARCHIVE.name}"] = packed
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in tiny.binary.items()}
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in tiny.pickled.items()}
    archive = Archive(cifar.ARCHIVE.name, hashlib.sha256(packed).hexdigest())
    monkeypatch.setattr(cifar, "ARCHIVE", archive)
    monkeypatch.setattr(cifar, "BINARY", Layout(cifar.BINARY.folder, sha256))
    monkeypatch.setattr(cifar, "PICKLED", Layout(cifar.PICKLED.folder, md5))
    monkeypatch.setattr(cifar, "MIRRORS", [server.url("/mirror")])
    return tiny


def test_cifar_is_fetched_once(
    cifar: type[CIFAR10 | CIFAR100], photos: Photographs, server: Server, tmp_path: Path, same: Same
) -> None:
    assert same(cifar().load(tmp_path), photos.arrays())
    assert same(cifar(mirrors=[]).load(tmp_path), photos.arrays())
    assert len(server.requests) == 1
    own = tmp_path / "perdure" / photos.folder
    assert cifar().fetch(tmp_path) == own
    assert {file.name: file.read_bytes() for file in own.iterdir()} == photos.binary
    assert list(own.parent.iterdir()) == [own]  # neither archive nor lock nor part


def test_two_at_once_fetch_and_unpack_once(
    cifar: type[CIFAR10 | CIFAR100],
    photos: Photographs,
    server: Server,
    tmp_path: Path,
    same: Same,
) -> None:
    gate = threading.Event()
    server.script.append(server.gated(gate, 5_000))
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(cifar().load, tmp_path) for _ in range(2)]
        while not server.requests:
            time.sleep(0.005)
        gate.set()
        assert all(same(load.result(), photos.arrays()) for load in loads)
    assert len(server.requests) == 1


def test_cifar_in_the_authors_layout_is_used_as_it_is(
    cifar: type[CIFAR10 | CIFAR100],
    photos: Photographs,
    server: Server,
    tmp_path: Path,
    same: Same,
    put: Put,
) -> None:
    folder = put(tmp_path / photos.folder, photos.binary)
    assert same(cifar().load(tmp_path), photos.arrays())
    assert cifar().fetch(tmp_path) == folder
    assert not server.requests


def test_cifar_in_torchvisions_layout_is_used_as_it_is(
    cifar: type[CIFAR10 | CIFAR100],
    photos: Photographs,
    server: Server,
    tmp_path: Path,
    same: Same,
    put: Put,
) -> None:
    folder = put(tmp_path / cifar.PICKLED.folder, photos.pickled)
    assert same(cifar().load(tmp_path), photos.arrays())
    assert cifar().fetch(tmp_path) == folder
    assert not server.requests


def test_an_archive_put_there_by_hand_needs_no_network(
    cifar: type[CIFAR10 | CIFAR100], photos: Photographs, server: Server, tmp_path: Path, same: Same
) -> None:
    archive = tmp_path / cifar.ARCHIVE.name
    archive.write_bytes(server.files[f"/mirror/{archive.name}"] + b"\0")  # still unpacks
    with pytest.raises(UserError, match=rf"{archive.name} is damaged"):
        cifar().load(tmp_path)
    archive.write_bytes(server.files[f"/mirror/{archive.name}"])
    assert same(cifar().load(tmp_path), photos.arrays())
    assert archive.exists()
    assert not server.requests


@pytest.mark.parametrize("pickled", [False, True], ids=["binary", "pickled"])
def test_a_damaged_batch_of_others_is_named_and_left_alone(
    cifar: type[CIFAR10 | CIFAR100],
    photos: Photographs,
    server: Server,
    tmp_path: Path,
    pickled: bool,
    put: Put,
) -> None:
    files = photos.pickled if pickled else photos.binary
    folder = put(tmp_path / (cifar.PICKLED if pickled else cifar.BINARY).folder, files)
    victim = folder / list(files)[-1]
    damaged = bytearray(files[victim.name])
    damaged[len(damaged) // 2] ^= 1  # a pixel
    victim.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{victim} is damaged"):
        cifar().load(tmp_path)
    assert victim.read_bytes() == damaged
    assert not server.requests


@pytest.mark.parametrize("gone", [False, True], ids=["flipped", "missing"])
def test_our_own_damaged_batch_is_fetched_again(
    cifar: type[CIFAR10 | CIFAR100],
    photos: Photographs,
    server: Server,
    tmp_path: Path,
    gone: bool,
    same: Same,
) -> None:
    own = cifar().fetch(tmp_path)
    victim = own / list(photos.binary)[-1]
    victim.unlink() if gone else victim.write_bytes(b"\x09" * victim.stat().st_size)
    with pytest.raises(UserError, match="no mirror is known"):
        cifar(mirrors=[]).load(tmp_path)
    assert same(cifar().load(tmp_path), photos.arrays())
    assert len(server.requests) == 2
    assert list(own.parent.iterdir()) == [own]
