"""Files in object stores, through fsspec and the store's own package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from perdure.io.download import (
    Answer,
    BrokenOffError,
    OverLimitError,
    RefusedError,
    Transfer,
    Version,
)

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Scheme -> what a user installs to have it."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bucket:
    """A `download.Source`; credentials are found where the store's own tools look for them.

    Each store has timeouts of its own kind, so it is asked in threads that are not waited for
    beyond the transfer's limit.
    """

    package: str

    @contextmanager
    def __call__(
        self, url: str, have: int, part: Version, held: Version, transfer: Transfer, /
    ) -> Iterator[Answer | None]:
        with self._asking():
            store, path, about, key = transfer.bounded(partial(_find, url))
            version = {"exact": key}
        if about.get("type") == "directory":
            raise RefusedError("it is a folder, not a file")
        if held.get("exact") == version["exact"]:
            yield None
            return
        total = about.get("size")
        start = have if part.get("exact", version["exact"]) == version["exact"] else 0
        with self._asking():
            file = transfer.bounded(partial(store.open, path, "rb"))
        try:
            blocks = self._blocks(file, start, transfer)
            yield Answer(blocks, start, total, total is not None, version)
        finally:
            file.close()

    def _blocks(self, file: Any, start: int, transfer: Transfer) -> Iterator[bytes]:
        with self._asking():
            transfer.bounded(partial(file.seek, start))
        while True:
            with self._asking():
                block = transfer.bounded(partial(file.read, _BLOCK))
            if not block:
                return
            yield block

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Stores fail with errors of every kind; after these four, asking again is no use."""
        try:
            yield
        except OverLimitError:
            raise
        except ImportError as error:
            raise RefusedError(f"pip install {self.package} is needed for that") from error
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise RefusedError(_words(error)) from error
        except Exception as error:
            raise BrokenOffError(_words(error)) from error


def _find(url: str) -> tuple[Any, str, dict[str, Any], str]:
    """The store, the path in it, what it tells of the file, and what changes with the file."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    store, path = url_to_fs(url, use_listings_cache=False)
    return store, path, store.info(path), str(store.ukey(path))


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
