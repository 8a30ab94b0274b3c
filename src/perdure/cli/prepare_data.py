"""Download a benchmark's data ahead of time, for machines without a network.

perdure prepare-data dataset=seq-cifar10 [data.root=…]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perdure.cli.main import exit_run, worded_exit
from perdure.config import error_messages
from perdure.config.build import build
from perdure.config.compose import compose
from perdure.datasets.fetch import time_limit
from perdure.errors import UserError


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Make sure that the data of the composed benchmark are on disk, verified."""
    parser = argparse.ArgumentParser(
        prog="perdure prepare-data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of perdure train")
    overrides = parser.parse_args(arguments).overrides
    try:
        config = compose(*overrides)
        node: Any = OmegaConf.to_container(config.dataset.source)
        source = build(node, "dataset.source")
        root = Path(config.data.root).expanduser()
        with time_limit(config.data.max_minutes):
            where = source.fetch(root)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        exit_run(error_messages.explain(error))
    place = "inside the package" if where is None else f"in {where}"
    print(f"{config.dataset.name}: data are ready {place}")
    return 0
