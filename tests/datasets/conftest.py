"""A web server, and writers of the real file formats."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from webserver import Answer, Server, serving

from perdure.datasets.arrays import Arrays
from perdure.datasets.sources import FashionMNIST

__all__ = ["Answer", "Server"]  # where the tests of fetching look for them


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Server()) as running:
        yield running


@pytest.fixture(scope="session")
def idx_bytes() -> Callable[[np.ndarray[Any, Any]], bytes]:
    """Writes an array of unsigned bytes as IDX."""

    def write(array: np.ndarray[Any, Any]) -> bytes:
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        return header + array.tobytes()

    return write


@pytest.fixture(scope="session")
def python2_pickle() -> Callable[[Any], bytes]:
    """Pickles as Python 2 did CIFAR: protocol 2, byte strings, numpy under its name of then."""

    base: Any = pickle._Pickler  # type: ignore[attr-defined, unused-ignore]

    class Python2Pickler(base):  # type: ignore[misc]
        dispatch: ClassVar[dict[type, Any]] = dict(base.dispatch)

        def save_string(self, text: str | bytes) -> None:
            data = text if isinstance(text, bytes) else text.encode("latin1")
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
            self.memoize(text)

        dispatch[str] = dispatch[bytes] = save_string

    def write(value: Any) -> bytes:
        parts: list[bytes] = []
        file = type("File", (), {"write": staticmethod(parts.append)})()
        Python2Pickler(file, protocol=2).dump(value)
        return b"".join(parts).replace(b"numpy._core.", b"numpy.core.")

    return write


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server but this machine's, no waiting, and no system folder that happens to be there."""
    monkeypatch.setattr(FashionMNIST, "SYSTEM", tmp_path / "no-system-folder")
    monkeypatch.setattr("perdure.datasets.fetch._PAUSES", (0.01,))
    look_up = socket.getaddrinfo

    def local_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


@pytest.fixture(scope="session")
def same() -> Callable[[Arrays, Arrays], bool]:
    """Whether two data sets are equal to the bit."""

    def compare(a: Arrays, b: Arrays) -> bool:
        return a.classes == b.classes and all(
            torch.equal(one.x, other.x) and torch.equal(one.y, other.y)
            for one, other in ((a.train, b.train), (a.test, b.test))
        )

    return compare


@pytest.fixture(scope="session")
def put() -> Callable[..., Path]:
    """Fills a new folder with files, gzipped where asked for."""

    def fill(folder: Path, files: Mapping[str, bytes], *, pack: bool = False) -> Path:
        folder.mkdir(parents=True)
        for name, contents in files.items():
            packed = gzip.compress(contents, 1) if pack else contents
            (folder / f"{name}.gz" if pack else folder / name).write_bytes(packed)
        return folder

    return fill
