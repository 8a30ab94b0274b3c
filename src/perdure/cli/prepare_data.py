"""Download a benchmark's data ahead of time, for machines without a network.

What is there already is only checked: sizes and checksums of every file. With the same data.root
no later run needs a network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perdure.cli.main import exit_run, worded_exit
from perdure.config import error_messages
from perdure.config.build import build, import_from_here
from perdure.config.compose import compose
from perdure.config.folder import options
from perdure.config.overrides import Arguments
from perdure.datasets.fetch import time_limit
from perdure.errors import UserError

_OVERRIDES = """\
overrides, as of perdure train:
  dataset=NAME           whose data; one of your own below --config-dir, or
{datasets}
  data.root=DIR          where data sets are looked for and downloaded to; by default
                         $PERDURE_DATA, or data in the current directory
  data.max_minutes=N     how long all of it may take
  dataset.source.KEY=V   options of the data set's source

examples:
  perdure prepare-data dataset=seq-cifar10
  perdure prepare-data dataset=seq-cifar100 data.root=/shared/data data.max_minutes=60

exit status: 0 when the data are ready, 2 when they are not, with the reason in a sentence
"""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Make sure that the data of the composed benchmark are on disk, verified."""
    typed = _parsed(arguments)
    import_from_here()
    flags = [] if typed.config_dir is None else ["--config-dir", typed.config_dir]
    command = Arguments((*flags, *typed.overrides))
    try:
        config = compose(*command.search_path, *(t.text for t in command.overrides))
        node: Any = OmegaConf.to_container(config.dataset.source)
        source = build(node, "dataset.source")
        if not hasattr(source, "fetch"):
            raise UserError(
                f"dataset.source._target_={node['_target_']}: has no fetch(root), so its data "
                "cannot be prepared; its first run reads them"
            )
        root = Path(config.data.root).expanduser()
        with time_limit(config.data.max_minutes):
            where = source.fetch(root)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        exit_run(error_messages.explain(error))
    place = "inside the package" if where is None else f"in {where}"
    print(f"{config.dataset.name}: data are ready {place}")
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(options("dataset"))
    indent = " " * 25
    parser = argparse.ArgumentParser(
        prog="perdure prepare-data",
        description=__doc__,
        epilog=_OVERRIDES.format(
            datasets=fill(names, 100, initial_indent=indent, subsequent_indent=indent)
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="a folder of configuration files of your own"
    )
    return parser.parse_intermixed_args(arguments)
