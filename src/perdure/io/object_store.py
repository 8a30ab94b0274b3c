"""Object stores (S3, Google Cloud Storage, Azure): downloads through fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from perdure.io.transfer import (
    FileVersion,
    InterruptedTransferError,
    OverLimitError,
    RefusedError,
    Response,
    Transfer,
)

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""Scheme -> what a user installs to have it."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class ObjectStoreSource:
    """A `transfer.Source`; credentials are found where the store's own tools look for them.

    Each store has timeouts of its own kind, so it is called in threads that are abandoned at the
    transfer's limit.

    Attributes:
        package: what a user installs to have this store.
    """

    package: str

    @contextmanager
    def __call__(
        self,
        url: str,
        offset: int,
        part: FileVersion,
        cached: FileVersion,
        transfer: Transfer,
        /,
    ) -> Iterator[Response | None]:
        with self._store_errors():
            store, path, info, key = transfer.bounded(partial(_find, url))
            version = {"exact": key}
        if info.get("type") == "directory":
            raise RefusedError("it is a folder, not a file")
        if cached.get("exact") == version["exact"]:
            yield None
            return
        total = info.get("size")
        start = offset if part.get("exact", version["exact"]) == version["exact"] else 0
        with self._store_errors():
            file = transfer.bounded(partial(store.open, path, "rb"))
        try:
            blocks = self._blocks(file, start, transfer)
            yield Response(blocks, start, total, total is not None, version)
        finally:
            file.close()

    def _blocks(self, file: Any, start: int, transfer: Transfer) -> Iterator[bytes]:
        with self._store_errors():
            transfer.bounded(partial(file.seek, start))
        while True:
            with self._store_errors():
                block = transfer.bounded(partial(file.read, _BLOCK))
            if not block:
                return
            yield block

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        """Stores fail with errors of every kind; after these four, a retry cannot help."""
        try:
            yield
        except OverLimitError:
            raise
        except ImportError as error:
            raise RefusedError(f"pip install {self.package} is needed for that") from error
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise RefusedError(_words(error)) from error
        except Exception as error:
            raise InterruptedTransferError(_words(error)) from error


def _find(url: str) -> tuple[Any, str, dict[str, Any], str]:
    """The store, the path in it, the file's info, and a key that changes with the file."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    store, path = url_to_fs(url, use_listings_cache=False)
    return store, path, store.info(path), str(store.ukey(path))


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
