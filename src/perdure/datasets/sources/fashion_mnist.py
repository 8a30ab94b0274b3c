"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, github.com/zalandoresearch/fashion-mnist)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from perdure.config.build import Url
from perdure.datasets.arrays import Arrays
from perdure.datasets.fetch import fetch
from perdure.datasets.idx import read_idx
from perdure.datasets.sources.base import FetchedSource
from perdure.datasets.sources.mnist import assemble

_LIMIT = 1 << 26  # bytes; the largest file has 26 million


class Checksums(NamedTuple):
    """Of the authors' gzip file (published in their README), and of what it unpacks to."""

    md5: str
    sha256: str


class FashionMNIST(FetchedSource):
    """60,000 + 10,000 gray pictures of clothes. `mirrors`: web folders that hold the four files."""

    name = "fashion-mnist"
    shape = (1, 28, 28)
    n_classes = 10
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    title = "Fashion-MNIST"
    benchmark = "seq-fmnist"
    folder = "fashion-mnist"
    layouts = "torchvision's FashionMNIST/raw/ or a folder fashion-mnist/ with the four gzip files"

    # The authors' repository, the copy that Keras uses, the authors' first home (http only).
    MIRRORS = (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    )
    SYSTEM = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
    FILES: ClassVar[Mapping[str, Checksums]] = {
        "train-images-idx3-ubyte": Checksums(
            md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels-idx1-ubyte": Checksums(
            md5="25c81989df183df01b3e8a0aad5dffbe",
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": Checksums(
            md5="bef4ecab320f06d8554ea6380940ec79",
            sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels-idx1-ubyte": Checksums(
            md5="bb300cfdad3c16e7a12a480ee83cd310",
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    }

    def __init__(self, mirrors: Sequence[Url] | None = None) -> None:
        self.mirrors: tuple[str, ...] = tuple(self.MIRRORS if mirrors is None else mirrors)

    def _elsewhere(self, root: Path) -> Sequence[Path]:
        return (root / "FashionMNIST" / "raw", root / "fashion-mnist", self.SYSTEM)

    def _is_complete(self, folder: Path) -> bool:
        return all(_file(folder, name).is_file() for name in self.FILES)

    def _read(self, folder: Path) -> Arrays:
        # Others pack the same contents differently (Debian) or not at all (torchvision).
        return assemble(
            lambda name: read_idx(_file(folder, name), sha256=self.FILES[name].sha256),
            self.classes,
        )

    def _download(self, root: Path, own: Path, has_lock: bool) -> None:
        for name, checksums in self.FILES.items():
            urls = [f"{mirror.rstrip('/')}/{name}.gz" for mirror in self.mirrors]
            fetch(urls, own / f"{name}.gz", md5=checksums.md5, limit=_LIMIT)


def _file(folder: Path, name: str) -> Path:
    """The unpacked file, which is quicker to read, else the packed one."""
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"
