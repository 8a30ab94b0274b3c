"""Files in object stores, through fsspec and the store's own package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from perdure.download import Answer, BrokenOffError, RefusedError, Version

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Scheme -> what a user installs to have it."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bucket:
    """A `download.Source`; credentials are found where the store's own tools look for them."""

    package: str

    @contextmanager
    def __call__(
        self, url: str, have: int, part: Version, held: Version, /
    ) -> Iterator[Answer | None]:
        with self._asking():
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            store, path = url_to_fs(url, use_listings_cache=False)
            about = store.info(path)
            version = {"exact": str(store.ukey(path))}
        if about.get("type") == "directory":
            raise RefusedError("it is a folder, not a file")
        if held.get("exact") == version["exact"]:
            yield None
            return
        total = about.get("size")
        start = have if part.get("exact", version["exact"]) == version["exact"] else 0
        with self._asking():
            file = store.open(path, "rb")
        try:
            yield Answer(self._blocks(file, start), start, total, total is not None, version)
        finally:
            file.close()

    def _blocks(self, file: Any, start: int) -> Iterator[bytes]:
        with self._asking():
            file.seek(start)
        while True:
            with self._asking():
                block = file.read(_BLOCK)
            if not block:
                return
            yield block

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Stores fail with errors of every kind; after these four, asking again is no use."""
        try:
            yield
        except ImportError as error:
            raise RefusedError(f"pip install {self.package} is needed for that") from error
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise RefusedError(_words(error)) from error
        except Exception as error:
            raise BrokenOffError(_words(error)) from error


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
