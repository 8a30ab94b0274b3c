"""HTTP: which request is which, and the acting out of faults."""

from __future__ import annotations

import base64
import gzip
import json
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from wandb_server.faults import Fault, corrupted
from wandb_server.graphql import Operation
from wandb_server.refusals import RefusedError

if TYPE_CHECKING:
    from wandb_server.server import Listener, StandIn

API_KEY = "0123456789" * 4  # the client wants 40 characters
KEY_HEADER = "Basic " + base64.b64encode(f"api:{API_KEY}".encode()).decode()
CHUNK = 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    @property
    def standin(self) -> StandIn:
        return self.server.standin

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    @property
    def length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def log_message(self, *_: object) -> None:
        """Not on the console of the tests."""

    def do_POST(self) -> None:
        data = self.rfile.read(self.length)
        if len(data) < self.length:  # the client went away
            self.close_connection = True
            return
        plain = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
        body = json.loads(plain)
        if self.parts[-1] == "file_stream":
            self._file_stream(body)
        else:
            self._graphql(body)

    def _file_stream(self, body: dict[str, Any]) -> None:
        """At /files/<entity>/<project>/<run>/file_stream."""
        if not self._begin("file_stream"):
            entity, project, name = self.parts[1:4]
            self._served(lambda: self.standin.stream(entity, project, name, body), "file_stream")

    def _graphql(self, body: dict[str, Any]) -> None:
        operation = Operation(body["query"])
        if not self._begin(operation.name):
            root, variables = self.standin.root, body.get("variables")
            self._served(lambda: {"data": operation.execute(root, variables)}, operation.name)

    def _served(self, serve: Any, name: str) -> None:
        """Do it with the key and under the lock; what goes wrong becomes a GraphQL error."""
        if self.headers.get("Authorization") != KEY_HEADER:
            self._error(RefusedError("user is not logged in", 401))
            return
        try:
            with self.standin.serving():
                answer = serve()
        except RefusedError as error:
            self._error(error)
        except Exception as error:  # what the stand-in cannot do is not to pass unseen
            self.standin.problems.append(f"{name}: {error!r}")
            self._error(RefusedError(f"stand-in: {name}: {error!r}", 400))
        else:
            self._answer(answer)

    def do_PUT(self) -> None:
        if self._begin(f"PUT {self.parts[0]}"):
            return
        try:
            whole = self.standin.root.blobs.put(self.parts[-1], self.rfile, self.length)
        except RefusedError as error:
            self.close_connection = True  # the body may not have been read
            self._error(error)
            return
        with self.standin.serving():
            self.close_connection = not whole
        if whole:
            self._answer({})

    def do_GET(self) -> None:
        if self._begin(f"GET {self.parts[0]}"):
            return
        path = self.standin.root.blobs.path(self.parts[-1])
        if self.parts[0] == "storage" and path.is_file():
            self._send(path)
        else:
            self._error(RefusedError("not found", 404))

    def _send(self, path: Path) -> None:
        size = left = path.stat().st_size
        if self.fault.cut > 0:
            left, self.close_connection = min(size, self.fault.cut), True
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        with open(path, "rb") as source:
            while left and (chunk := source.read(min(left, CHUNK))):
                self.wfile.write(corrupted(chunk) if self.fault.corrupt else chunk)
                left -= len(chunk)

    def _begin(self, name: str) -> bool:
        """Log the request and act out the fault set for it; True: there is no more to do."""
        self.fault = fault = self.standin.arrived(name)
        fault.wait(self.standin.closing)
        if fault.status or fault.message:
            self._drain()
            self._error(
                RefusedError(fault.message or f"stand-in fault {fault.status}", fault.status)
            )
        elif fault.cut == 0 or (fault.cut > 0 and self.command == "PUT"):
            self.rfile.read(min(fault.cut, self.length // 2))  # a short body has no more to come
            self._hang_up()
        else:
            return False
        return True

    def _drain(self) -> None:
        """Read an upload that is refused, so that the answer is heard."""
        left = self.length if self.command == "PUT" else 0
        while left and (chunk := self.rfile.read(min(left, CHUNK))):
            left -= len(chunk)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _error(self, error: RefusedError) -> None:
        extensions = {"extensions": {"code": error.code}} if error.code else {}
        body = {"data": None, "errors": [{"message": error.message, **extensions}]}
        self._answer(body, error.status or 200)

    def _answer(self, body: object, status: int = 200) -> None:
        if self.fault.lose:
            self._hang_up()
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    fault: Fault = Fault()
