"""Stored bytes, and the "signed" URLs to put and get them."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any

from wandb_server.refusals import RefusedError


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def gid(*parts: object) -> str:
    """A GraphQL id: base64, since the client turns artifacts' ids into hex for its references."""
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()


class Blobs:
    """A folder of blobs; only what was offered may be put, with the md5 that was announced."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url
        directory.mkdir(parents=True, exist_ok=True)
        self.stored: list[str] = []  # every blob that was put, in order
        self._md5: dict[str, str] = {}  # blob -> base64, "" for anything
        self._partial = count()
        self._lock = threading.Lock()

    @staticmethod
    def name(kind: str, key: str) -> str:
        return f"{kind}-{hashlib.sha1(key.encode()).hexdigest()}"

    def path(self, blob: str) -> Path:
        return self.directory / Path(blob).name

    def has(self, blob: str) -> bool:
        return self.path(blob).is_file()

    def file(self, name: str, blob: str, **more: Any) -> dict[str, Any]:
        """GraphQL's File, to read."""
        url = f"{self.url}/storage/{blob}"
        return {
            **{"__typename": "File", "id": gid(blob), "name": name, "displayName": name},
            **{"storagePath": blob, "directUrl": url, "url": url, "updatedAt": now()},
            **more,
        }

    def offer(self, name: str, blob: str, md5: str = "", **more: Any) -> dict[str, Any]:
        """GraphQL's File, to write; `md5` in base64 is what the upload must have."""
        self._md5[blob] = md5
        headers = [f"Content-MD5:{md5}"] if md5 else []
        url = f"{self.url}/storage/{blob}"
        return self.file(name, blob, uploadUrl=url, uploadHeaders=headers, **more)

    def put(self, blob: str, source: BufferedIOBase, size: int) -> bool:
        """Keep what arrives if it is whole and right; False: the client went away before."""
        if blob not in self._md5:
            raise RefusedError("AccessDenied: this URL was not signed", 403)
        with self._lock:
            partial = self.directory / f"partial-{next(self._partial)}"
        try:
            arrived, md5 = _copy(source, partial, size)
            if arrived < size:
                return False
            if self._md5[blob] not in ("", md5):
                raise RefusedError(f"BadDigest: {md5} arrived, not {self._md5[blob]}", 400)
            os.replace(partial, self.path(blob))
            self.stored.append(blob)
        finally:
            partial.unlink(missing_ok=True)
        return True


def _copy(source: BufferedIOBase, target: Path, size: int) -> tuple[int, str]:
    """Bytes copied and their md5 in base64."""
    digest, left = hashlib.md5(), size
    with open(target, "wb") as out:
        while left and (chunk := source.read(min(left, 1 << 20))):
            out.write(chunk)
            digest.update(chunk)
            left -= len(chunk)
    return size - left, base64.b64encode(digest.digest()).decode()
