"""Another class through `_target_`: options that only the group's own class takes are left out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from perdure.config.build import locate
from perdure.config.overrides import Arguments
from perdure.config.protocol import GROUPS

_KEPT = {"_target_", "name", "size"}
"""What Perdure itself reads, whatever the class takes."""


def drop_unaccepted_options(
    config: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, list[str]]:
    """`config` without options that a class named in `overrides` does not take; sentences on them.

    `optimizer._target_=torch.optim.RMSprop` stands beside what the group's file sets for its own
    class. What the user typed stays, and is refused where the class does not take it.

    Raises:
        UserError: the class cannot be imported.
    """
    typed, messages = Arguments(tuple(overrides)), []
    config = config.copy()
    for group in GROUPS.values():
        target = OmegaConf.select(config, f"{group}._target_")
        if target is None or not typed.sets(f"{group}._target_"):
            continue
        parameters = inspect.signature(locate(target, group)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        node = OmegaConf.select(config, group)
        unknown = [str(k) for k in node if k not in parameters and k not in _KEPT]
        foreign = [key for key in unknown if not typed.sets(f"{group}.{key}")]
        with open_dict(config):
            for key in foreign:
                del node[key]
        if foreign:
            keys = ", ".join(f"{group}.{key}" for key in foreign)
            messages.append(f"{target} does not take {keys}: left out")
    return config, messages
