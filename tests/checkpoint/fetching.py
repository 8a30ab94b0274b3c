"""What the tests of remote checkpoints share."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from webserver import Server

from perdure.checkpoint.remote.references import resolve
from perdure.errors import UserError
from perdure.io.transfer import Limits

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(310_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
PINNED = f"#sha256={SHA256}"


def get(ref: str, cache: Path, data: bytes = DATA) -> Path:
    """The cached file, after a look at what else is in the cache: its record alone."""
    path = resolve(ref, cache)
    assert path.read_bytes() == data
    assert {f.name for f in cache.iterdir()} == {path.name, f"{path.name}.version"}
    return path


def refused(
    ref: str, cache: Path, limit: int = 1 << 20, part: bool = False, seconds: float = 3600.0
) -> str:
    """The message; `part`: whether what came is kept, to be resumed later."""
    with pytest.raises(UserError) as caught:
        resolve(ref, cache, limits=Limits(seconds, limit))
    left = [f.name for f in cache.iterdir()] if cache.exists() else []
    assert all(name.endswith((".part", ".part.version")) for name in left)
    assert bool(left) is part
    assert "\n" not in str(caught.value)
    return str(caught.value)


def requests_for(server: Server, path: str = "/er.pt") -> list[str | None]:
    """The Range of each request for a file."""
    return [span for requested, span in server.requests if requested == path]
