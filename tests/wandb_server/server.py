"""A stand-in for the W&B server on loopback, for the real client."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb_server.blobs import Blobs
from wandb_server.faults import Fault
from wandb_server.handler import API_KEY, Handler
from wandb_server.root import Root
from wandb_server.runs import ENTITY, Project, Run

HOST = "127.0.0.1"


class Listener(ThreadingHTTPServer):
    """The listening socket, and the connections that came through it."""

    daemon_threads = True

    def __init__(self, standin: StandIn, port: int) -> None:
        super().__init__((HOST, port), Handler)
        self.standin = standin
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no news
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Close everything, as a machine that dies."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._connections):
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed meanwhile
                continue


class StandIn:
    """Answers what runs, history, resume and artifacts ask; the rest is null.

        with StandIn(folder / "server") as server:
            env = server.env(folder / "machine A")  # for a client's process
            server.fault("CommitArtifact", status=500, times=2)
            server.wait_for("file_stream")
            assert server.history("project", "run-id")[-1]["loss"] < 1

    `log` names every request in its order: the operation of GraphQL ("UpsertBucket"),
    "file_stream", "PUT storage", "GET storage". `problems` is what a server that keeps everything
    would have lost or could not do.
    """

    def __init__(self, directory: str | Path, port: int = 0, verbose: bool = False) -> None:
        self.directory, self.verbose = Path(directory), verbose
        self.faults: dict[str, Fault] = {}
        self.log: list[str] = []
        self.problems: list[str] = []
        self.closing = threading.Event()
        self._changed = threading.Condition(threading.RLock())
        self._reserved = _reserve(port)
        self.port: int = self._reserved.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self.root = Root(Blobs(self.directory, self.url))
        self._listener: Listener | None = None

    def __enter__(self) -> StandIn:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.down()
        self._reserved.close()

    def up(self) -> None:
        """Listen again, on the same port and with all that is stored."""
        if self._listener is None:
            self._reserved.close()
            self._listener = Listener(self, self.port)

    def down(self) -> None:
        """Connections are reset and new ones refused."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
            self._reserved = _reserve(self.port)

    def env(self, home: str | Path) -> dict[str, str]:
        """The environment of a client on a machine of its own, whose files lie in `home`.

        Put it over `os.environ`. `WANDB_SERVICE` is emptied: a client that was used in this
        process leaves there the address of its own core, which a child would share.
        """
        Path(home).mkdir(parents=True, exist_ok=True)
        kinds = ("CACHE", "DATA", "CONFIG", "ARTIFACT")
        return {
            **{f"WANDB_{kind}_DIR": str(Path(home) / kind.lower()) for kind in kinds},
            **{"WANDB_DIR": str(home), "WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY},
            **{"WANDB_MODE": "online", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"},
            **{"WANDB_SERVICE": "", "NO_PROXY": HOST, "no_proxy": HOST},
        }

    def fault(self, where: str, **how: Any) -> None:
        """Make one kind of request, or "*", fail as `Fault` describes."""
        with self._changed:
            self.faults[where] = Fault(**how)

    def deny(self, entity: str = ENTITY, project: str = "*") -> None:
        """The key has no permission for this project, or for any of the entity's."""
        with self._changed:
            self.root.denied.add((entity, project))

    def allow(self, entity: str = ENTITY, project: str = "*") -> None:
        """The entity exists, and what was denied is permitted again."""
        with self._changed:
            self.root.entities.add(entity)
            self.root.denied.discard((entity, project))

    def project(self, name: str, entity: str = ENTITY) -> Project:
        return self.root.projects[entity, name]

    def run(self, project: str, run_id: str, entity: str = ENTITY) -> Run:
        return self.project(project, entity).run_by_name[run_id]

    def history(self, project: str, run_id: str, entity: str = ENTITY) -> list[dict[str, Any]]:
        """The run's rows in the order of their arrival; none while there is no such run."""
        with self._changed:
            try:
                return self.run(project, run_id, entity).rows()
            except KeyError:
                return []

    def values(self, project: str, run_id: str, key: str, having: str = "") -> list[Any]:
        """`key` of each row that has it, and `having` too."""
        rows = self.history(project, run_id)
        return [row[key] for row in rows if key in row and (having or key) in row]

    def uploads(self, kind: str = "blob") -> int:
        """How many uploads were kept: of artifacts' files (`blob`), `manifest`s or `run` files."""
        return sum(name.startswith(f"{kind}-") for name in self.root.blobs.stored)

    def wait_for(self, name: str, n: int = 1, timeout: float = 60, since: int = 0) -> None:
        """Until `n` requests of that name have arrived after the first `since` of the log."""
        self.wait_until(
            lambda: self.log[since:].count(name) >= n, timeout, f"{n} requests {name!r}"
        )

    def wait_until(
        self, reached: Callable[[], bool], timeout: float = 60, what: str = "this"
    ) -> None:
        """Looks whenever a request has arrived or was served."""
        with self._changed:
            if not self._changed.wait_for(reached, timeout):
                raise TimeoutError(f"{what} not within {timeout} s; the last: {self.log[-20:]}")

    def arrived(self, name: str) -> Fault:
        """Log a request; which fault it meets."""
        if self.verbose:
            print(f"{time.time():.3f} {name}", flush=True)
        with self._changed:
            self.log.append(name)
            self._changed.notify_all()
            found = (self.faults.get(name), self.faults.get("*"))
            fault = next((f for f in found if f and f.times > 0), Fault())
            fault.times -= 1
            return fault

    @contextmanager
    def serving(self) -> Iterator[None]:
        """One request at a time; whoever waits looks again afterwards."""
        with self._changed:
            try:
                yield
            finally:
                self._changed.notify_all()

    def stream(self, entity: str, project: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self.root.known_run(entity, project, name)
        self.problems.extend(run.receive(body))
        return {"stopped": run.stopped}


def _reserve(port: int) -> socket.socket:
    """A socket that holds the port without listening: connections to it are refused."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((HOST, port))
    return holder
