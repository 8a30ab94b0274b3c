"""A guard around the network that a method is given: what its own code must not read early."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from perdure.audit.outcome import FindingError
from perdure.backbones.base import Backbone

_OF_THE_FRAMEWORK = (
    "perdure.backbones",
    "perdure.datasets",
    "perdure.training",
    "perdure.run",
    "perdure.audit",
)


def guarded(network: Backbone) -> Backbone:
    """`network`, of which no code of a method reads how many classes the benchmark has.

    Its own code, and that of the trainer, may: whoever reads `n_classes` is found by the module of
    the calling function.
    """
    kind = type(network)
    own = {inspect.getmodule(base).__name__ for base in kind.__mro__ if _is_network(base)}  # type: ignore[union-attr]

    def read(self: Backbone) -> int:
        reader = sys._getframe(1)
        module = reader.f_globals.get("__name__", "")
        if module not in own and not module.startswith(_OF_THE_FRAMEWORK):
            raise FindingError(
                f"{module}.{reader.f_code.co_name} reads backbone.n_classes, the number of "
                "all classes, before they have come; declare needs_n_classes = True"
            )
        return int(self.__dict__["n_classes"])

    def write(self: Backbone, value: int) -> None:
        self.__dict__["n_classes"] = value

    guard: Any = type(kind.__name__, (kind,), {"n_classes": property(read, write)})
    network.__class__ = guard
    return network


def _is_network(kind: type) -> bool:
    return issubclass(kind, Backbone) and kind is not Backbone
