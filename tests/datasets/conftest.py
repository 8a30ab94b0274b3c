"""A real web server with faults, and writers of the real file formats."""

from __future__ import annotations

import gzip
import pickle
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from perdure.datasets.arrays import Arrays
from perdure.datasets.sources import FashionMNIST

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the next scripted answer, else what a good server gives."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        answer = self.server.script.popleft() if self.server.script else self.server.usual
        answer(self, self.server.files.get(self.path, b""))

    def body(self, data: bytes, status: int = 200, length: int | None = None, **more: str) -> None:
        """`length`: what is promised, where that is not what is sent; -1 promises nothing."""
        self.send_response(status)
        if length != -1:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
        self.server.sent += len(data)

    def log_message(self, *_: object) -> None:
        """Not on the console of the tests."""


class Server(ThreadingHTTPServer):
    """`files`: path -> contents; `script`: answers to the next requests, then `usual` for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.script: deque[Answer] = deque()
        self.usual: Answer = self.ranged
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""

    @staticmethod
    def whole(handler: Handler, data: bytes) -> None:
        handler.body(data)

    @staticmethod
    def ranged(handler: Handler, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if asked and start >= len(data):
            handler.body(b"", 416, Content_Range=f"bytes */{len(data)}")
        elif asked:
            told = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.body(data[start:], 206, Content_Range=told)
        elif data:
            handler.body(data)
        else:
            handler.send_error(404)

    @staticmethod
    def cut(size: int) -> Answer:
        """Promises everything and hangs up after `size` bytes."""
        return lambda handler, data: handler.body(data[:size], length=len(data))

    @staticmethod
    def failing(status: int) -> Answer:
        return lambda handler, data: handler.send_error(status)

    @staticmethod
    def redirect(url: str) -> Answer:
        return lambda handler, data: handler.body(b"", 302, Location=url)

    @staticmethod
    def gated(gate: threading.Event, first: int) -> Answer:
        """Sends `first` bytes, and the rest when the gate opens."""

        def answer(handler: Handler, data: bytes) -> None:
            handler.body(data[:first], length=len(data))
            handler.wfile.flush()
            gate.wait(20)
            handler.wfile.write(data[first:])
            handler.server.sent += len(data) - first

        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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
