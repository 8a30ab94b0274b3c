"""Sealed data sources: this process loads none of them.

`perdure tune` starts its trials with the sources of the benchmark sealed on which the choice will
be scored, so nothing of it can decide the choice.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

from perdure.config.build import build, locate
from perdure.errors import UserError

VARIABLE = "PERDURE_SEALED"
"""The environment variable that lists the sealed sources: their `_target_`s, with commas."""

_GROUP = "dataset.source"


def sealing(targets: Iterable[str]) -> dict[str, str]:
    """Environment variables for a child that may not load these sources, nor those sealed here."""
    every = list(dict.fromkeys([*sealed(), *targets]))
    return {VARIABLE: ",".join(every)} if every else {}


def sealed() -> list[str]:
    """The `_target_`s that this process may not load."""
    return [target for target in os.environ.get(VARIABLE, "").split(",") if target]


def derives(target: str, base: str) -> bool:
    """Whether the class at the import path `target` is the one at `base`, or a subclass of it.

    Raises:
        UserError: one of them cannot be imported.
    """
    found, above = locate(target, _GROUP), locate(base, _GROUP)
    if inspect.isclass(found) and inspect.isclass(above):
        return issubclass(found, above)
    return found is above


def build_source(node: Mapping[str, Any]) -> Any:
    """The source that `node` describes; every load goes through here.

    Raises:
        UserError: it is sealed, or cannot be built.
    """
    target = str(node["_target_"])
    for base in sealed():
        if derives(target, base):
            raise _refusal(target, base)
    source = build(node, _GROUP)
    for base in sealed():  # a function may have made it
        above = locate(base, _GROUP)
        if inspect.isclass(above) and isinstance(source, above):
            raise _refusal(target, base)
    return source


def _refusal(target: str, base: str) -> UserError:
    return UserError(
        f"{_GROUP}._target_={target}: {base} is sealed while hyperparameters are tuned "
        f"({VARIABLE}); must be another data source"
    )
