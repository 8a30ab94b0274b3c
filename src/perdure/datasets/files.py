"""Checksum verification of data files (md5, sha256), and the error for a damaged one."""

from __future__ import annotations

from pathlib import Path

from perdure.errors import UserError
from perdure.io.files import hasher

ROOT = "data.root"
"""The key that names the folder of all data sets, for the advice in errors."""


class DamagedError(UserError):
    """A data file that is not the published one; `what` says how it was noticed."""

    def __init__(self, path: object, what: str) -> None:
        super().__init__(
            f"{path} is damaged ({what}): replace it by a valid copy, "
            "or remove it to have the data fetched again"
        )
        self.path = path
        self.what = what


def read_bytes(path: Path) -> bytes:
    """Raises DamagedError where the file is gone, UserError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(path, "the file is missing") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def check(
    data: bytes | memoryview, path: object, *, md5: str | None = None, sha256: str | None = None
) -> None:
    """Raises DamagedError unless `data` has every checksum that is given."""
    for algorithm, expected in (("md5", md5), ("sha256", sha256)):
        if expected is not None and hasher(algorithm, data).hexdigest() != expected:
            raise DamagedError(path, f"its {algorithm} is not the published {expected}")
