"""Real clients: in this process, in processes of their own, and bare requests beside them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wandb_server.handler import API_KEY
from wandb_server.server import StandIn

TESTS = Path(__file__).parents[1]
QUICK = {
    "x_file_stream_transmit_interval": 1,  # whole seconds; less means the default, 15
    "x_file_stream_retry_wait_min_seconds": 1,
    "x_file_stream_retry_wait_max_seconds": 1,
    "x_file_transfer_retry_wait_min_seconds": 1,
    "x_file_transfer_retry_wait_max_seconds": 1,
    "x_graphql_retry_wait_min_seconds": 1,
    "x_graphql_retry_wait_max_seconds": 1,
    "x_disable_stats": True,
}


def start(run_id: str = "r1", **how: Any) -> Any:
    """A run of this process in the project cl, that sends and retries every second."""
    import wandb

    settings = wandb.Settings(**{**QUICK, **how.pop("settings", {})})
    return wandb.init(project="cl", id=run_id, reinit="create_new", settings=settings, **how)


def artifact(folder: Path, content: bytes, name: str = "ckpt", **more: Any) -> Any:
    """An artifact of type checkpoint with one file, model.bin."""
    import wandb

    path = folder / "model.bin"
    path.write_bytes(content)
    made = wandb.Artifact(name, **{"type": "checkpoint", **more})
    made.add_file(str(path))
    return made


@contextmanager
def machine(
    server: StandIn, home: Path, script: str, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Python code in a process on a machine of its own, whose files lie in `home`.

    It may import from the tests, and is killed at the end of the block.
    """
    env = {**os.environ, **server.env(home), "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=env,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def on_machine(server: StandIn, home: Path, script: str, *arguments: str) -> str:
    """What `machine` prints; it has to end well."""
    with machine(server, home, script, *arguments) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return printed


def sync(server: StandIn, home: Path, *options: str) -> None:
    """`wandb sync` of all runs that lie in `home`."""
    folders = sorted(str(path) for path in (home / "wandb").glob("*run-*"))
    command = [sys.executable, "-m", "wandb", "sync", *options, *folders]
    env = {**os.environ, **server.env(home)}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)


def post(server: StandIn, path: str, body: object, key: str = API_KEY) -> tuple[int, Any]:
    """A request that the client's own checks would not let out."""
    basic = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers)) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def mutate(server: StandIn, field: str, **variables: Any) -> tuple[int, Any]:
    query = f"mutation Bare($input: Input!) {{ {field}(input: $input) {{ __typename }} }}"
    return post(server, "/graphql", {"query": query, "variables": {"input": variables}})
