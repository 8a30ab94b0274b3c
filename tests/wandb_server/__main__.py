"""The stand-in alone: `PYTHONPATH=tests python -m wandb_server --port 8081 --dir standin`."""

from __future__ import annotations

import argparse
import threading

from wandb_server.handler import API_KEY
from wandb_server.server import StandIn


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--port", type=int, default=8081)
    cli.add_argument("--dir", default="standin")
    arguments = cli.parse_args()
    with StandIn(arguments.dir, arguments.port, verbose=True) as server:
        print(f"export WANDB_BASE_URL={server.url} WANDB_API_KEY={API_KEY}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("closed", flush=True)


if __name__ == "__main__":
    main()
