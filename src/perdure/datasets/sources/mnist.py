"""MNIST (LeCun, Cortes and Burges), which comes with the package."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.files import DamagedError
from perdure.datasets.idx import decode_idx
from perdure.errors import UserError

SPLITS = ("train", "t10k")


class MNIST:
    """60,000 + 10,000 gray digits; nothing is downloaded, and no folder is needed."""

    name = "mnist"
    shape = (1, 28, 28)
    n_classes = 10
    classes = tuple("0123456789")

    def fetch(self, root: Path) -> None:
        """Nothing to do: the data are installed with the package."""

    def load(self, root: Path) -> Arrays:
        """`root` is not used. Raises UserError where the installed files are damaged."""
        folder = importlib.resources.files("perdure.datasets") / "data" / "mnist"

        def read(name: str) -> NDArray[np.uint8]:
            file = folder / f"{name}.gz"
            try:
                return decode_idx(file.read_bytes(), file)
            except OSError as error:
                raise UserError(f"{file} is missing ({error}): install perdure again") from error
            except DamagedError as damage:
                raise UserError(f"{file} is damaged ({damage.what}): install it again") from damage

        return assemble(read, self.classes)


def assemble(read: Callable[[str], NDArray[np.uint8]], classes: tuple[str, ...]) -> Arrays:
    """The four files of MNIST's family, each read by its name without an ending."""
    train, test = (
        Split(
            torch.from_numpy(read(f"{split}-images-idx3-ubyte")).unsqueeze(1),
            torch.from_numpy(read(f"{split}-labels-idx1-ubyte").astype(np.int64)),
        )
        for split in SPLITS
    )
    return Arrays(train, test, classes)
