"""The contract of a data source, and the base of those that are downloaded into `data.root`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from perdure.datasets.arrays import Arrays
from perdure.datasets.fetch import FetchError, current_transfer
from perdure.datasets.files import ROOT, DamagedError
from perdure.errors import UserError
from perdure.io.locking import locked

_OWN = "perdure"  # the one folder under data.root whose files may be replaced


class Source(Protocol):
    """Labeled images by name; `shape` is (C, H, W) of one image."""

    name: str
    shape: tuple[int, int, int]
    n_classes: int

    def fetch(self, root: Path) -> Path | None:
        """Download what is missing or damaged; the data's folder, None where none is needed."""

    def load(self, root: Path) -> Arrays:
        """The data, downloaded first where they are missing. Raises UserError where that fails."""


class FetchedSource(ABC):
    """A data set found under `root` in a usual layout, or else downloaded to `root/perdure/`.

    Files elsewhere are used as they are and never written; only our own are replaced if damaged.
    """

    name: str
    shape: tuple[int, int, int]
    n_classes: int
    title: ClassVar[str]
    benchmark: ClassVar[str]  # a dataset=… option that uses this source, for the advice in errors
    folder: ClassVar[str]  # of our own copy
    layouts: ClassVar[str]  # what to copy under the root by hand, for the advice in errors

    def load(self, root: Path) -> Arrays:
        return self._ready(Path(root).expanduser())[1]

    def fetch(self, root: Path) -> Path:
        """Every file is read and checked, so what this returns is known to load."""
        return self._ready(Path(root).expanduser())[0]

    @abstractmethod
    def _elsewhere(self, root: Path) -> Sequence[Path]:
        """Folders that other programs may have filled, in the order of preference."""

    @abstractmethod
    def _is_complete(self, folder: Path) -> bool:
        """Whether every file is there, unread."""

    @abstractmethod
    def _read(self, folder: Path) -> Arrays:
        """Raises DamagedError for a file that is not what was published."""

    @abstractmethod
    def _download(self, root: Path, own: Path, has_lock: bool) -> None:
        """Fills `own`, replacing what is damaged. Raises FetchError where no mirror answers."""

    def _ready(self, root: Path) -> tuple[Path, Arrays]:
        for folder in self._elsewhere(root):
            if self._is_complete(folder):
                return folder, self._read(folder)
        own = root / _OWN / self.folder
        arrays, _ = self._intact(own)
        if arrays is None:
            with locked(own, ROOT, current_transfer()) as has_lock:
                arrays, damage = self._intact(own)  # another process may have fetched it meanwhile
                if arrays is None:
                    self._download_or_advise(root, own, has_lock, damage)
                    arrays = self._read(own)
        return own, arrays

    def _intact(self, own: Path) -> tuple[Arrays | None, str]:
        """What our copy holds; None, and what is wrong with it where it is there but damaged."""
        if not self._is_complete(own):
            return None, ""
        try:
            return self._read(own), ""
        except DamagedError as damage:
            return None, f"{damage.path} is damaged ({damage.what})"

    def _download_or_advise(self, root: Path, own: Path, has_lock: bool, damage: str) -> None:
        try:
            self._download(root, own, has_lock)
        except FetchError as error:
            state = damage or f"{self.title} is not in data.root={root}"
            raise UserError(
                f"{state}, and {error}: on a machine with a network run `perdure "
                f"prepare-data dataset={self.benchmark} data.root={root}`, "
                f"or copy {self.layouts} into {root}"
            ) from error
