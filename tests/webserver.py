"""A real web server with faults."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Gives the next scripted answer, else what a good server gives."""

    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.headers.append(self.headers)
        answer = self.server.script.popleft() if self.server.script else self.server.usual
        answer(self, self.server.files.get(self.path, b""))

    def body(self, data: bytes, status: int = 200, length: int | None = None, **more: str) -> None:
        """`length`: what is promised, where that is not what is sent; -1 promises nothing."""
        self.send_response(status)
        if length != -1:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (more | self.server.tells.get(self.path, {})).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
        self.server.sent += len(data)

    def drip(self, data: bytes) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def do_CONNECT(self) -> None:
        """As a proxy: a tunnel to the server `behind` this one, whatever name is asked for."""
        self.server.requests.append((self.path, None))
        assert self.server.behind is not None
        with socket.create_connection(self.server.behind.server_address[:2]) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(there, self.connection), daemon=True)
            back.start()
            _pump(self.connection, there)
            back.join()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Not on the console of the tests."""


class Server(ThreadingHTTPServer):
    """`files`: path -> contents; `tells`: path -> ETag and Last_Modified, for conditional requests.

    `script`: answers to the next requests, then `usual` for ever.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tells: dict[str, dict[str, str]] = {}
        self.script: deque[Answer] = deque()
        self.usual: Answer = self.ranged
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[Message] = []
        self.sent = 0
        self.behind: Server | None = None

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
        versions = handler.server.tells.get(handler.path, {})
        tag, date = versions.get("ETag"), versions.get("Last_Modified")
        if handler.headers.get("If-Range", tag or date) != (tag or date):
            asked = None
        start = int(asked[1]) if asked else 0
        known = handler.headers.get("If-None-Match"), handler.headers.get("If-Modified-Since")
        if data and any(one and one in (tag, date) for one in known):
            handler.body(b"", 304)
        elif asked and start >= len(data):
            handler.body(b"", 416, Content_Range=f"bytes */{len(data)}")
        elif asked:
            sent_range = f"bytes {start}-{len(data) - 1}/{len(data)}"
            handler.body(data[start:], 206, Content_Range=sent_range)
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
    def endless(handler: Handler, data: bytes) -> None:
        """Until the client hangs up."""
        while True:
            handler.body(data, length=-1)

    @staticmethod
    def chunked(last: bool = True) -> Answer:
        """In pieces, without telling a length; not `last`: hangs up before the end."""

        def answer(handler: Handler, data: bytes) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            half = len(data) // 2
            for piece in (data[:half], data[half:], b"")[: 3 if last else 1]:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        return answer

    @staticmethod
    def endless_chunks(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    @staticmethod
    def reset(handler: Handler, data: bytes) -> None:
        """Hangs up with RST, as a crashing machine or an impatient firewall does."""
        handler.body(data[:100_000], length=len(data))
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    @staticmethod
    def stalled(handler: Handler, data: bytes) -> None:
        """Goes silent in the middle."""
        Server.gated(threading.Event(), 150_000)(handler, data)

    @staticmethod
    def dripping(handler: Handler, data: bytes) -> None:
        """Promises everything and sends the body byte by byte, so that it is never silent."""
        handler.body(b"", length=len(data))
        handler.drip(data)

    @staticmethod
    def dripping_without_end(handler: Handler, data: bytes) -> None:
        handler.body(b"", length=-1)
        handler.drip(b"x" * 60_000)

    @staticmethod
    def dripping_chunks(handler: Handler, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.drip(b"1\r\nx\r\n" * 10_000)

    @staticmethod
    def dripping_headers(handler: Handler, data: bytes) -> None:
        """One header that does not come to its end."""
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
        handler.drip(b"x" * 60_000)

    @staticmethod
    def silent(handler: Handler, data: bytes) -> None:
        """Takes the request and says nothing until the client hangs up."""
        handler.rfile.read(1)

    @staticmethod
    def late(seconds: float, then: Answer) -> Answer:
        def answer(handler: Handler, data: bytes) -> None:
            time.sleep(seconds)
            then(handler, data)

        return answer

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


class SecureServer(Server):
    """HTTPS with a certificate of its own making, in `certificate`, for one name or address.

    `asked_for`: the name that each client asked for in its TLS handshake.
    """

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        names = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*make.split(), *names, *files], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.asked_for: list[str | None] = []
        context.sni_callback = lambda _, name, __: self.asked_for.append(name)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        return f"https://{host}:{self.server_port}{path}"


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Answers requests until the end of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
