"""A stand-in for the W&B server that the real client talks to.

To look at one alone: `PYTHONPATH=tests python -m wandb_server --port 8081 --dir standin`.
"""

from wandb_server.faults import Fault
from wandb_server.handler import API_KEY
from wandb_server.runs import ENTITY
from wandb_server.server import StandIn

__all__ = ["API_KEY", "ENTITY", "Fault", "StandIn"]
