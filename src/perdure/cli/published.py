"""Published settings: the hyperparameters of a paper, by benchmark, method and buffer size.

    perdure published
    perdure published model=derpp dataset=seq-mnist

Each row is an experiment: `perdure train experiment=<name>` runs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from perdure.cli.processes import table
from perdure.config.folder import CONF

_FOLDER = CONF / "experiment"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the settings that fit; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("filters", nargs="*", metavar="GROUP=OPTION", help="model=…, dataset=…")
    filters = parser.parse_args(arguments).filters
    for text in filters:
        if text.partition("=")[0] not in ("model", "dataset") or not text.partition("=")[2]:
            print(f"perdure: {text}: must be model=<option> or dataset=<option>")
            return 2
    wanted = dict(text.split("=", 1) for text in filters)
    rows = [
        (name, *_values(content))
        for name, content in _settings()
        if wanted.items() <= _choices(content).items()
    ]
    if not rows:
        print(f"perdure: {' '.join(filters)}: no setting was published")
        return 2
    print(table([("experiment", "buffer.size", "hyperparameters"), *rows]))
    return 0


def _settings() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(_FOLDER.rglob("*.yaml")):
        yield str(Path(path.relative_to(_FOLDER)).with_suffix("")), yaml.safe_load(path.read_text())


def _choices(content: Mapping[str, Any]) -> dict[str, str]:
    """The options of groups that a setting names."""
    pairs = (pair for entry in content.get("defaults", ()) for pair in entry.items())
    return {group.removeprefix("override /"): option for group, option in pairs}


def _values(content: Mapping[str, Any]) -> tuple[str, str]:
    """The buffer's size, and the rest of what a setting sets."""
    values = {
        f"{group}.{key}": value
        for group, node in content.items()
        if isinstance(node, Mapping)
        for key, value in node.items()
    }
    size = values.pop("buffer.size", "")
    return str(size), " ".join(f"{key}={value}" for key, value in values.items())
