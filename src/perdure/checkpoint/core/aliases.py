"""Catalyst's names in a full checkpoint: model_state_dict, optimizer_state_dict and the others.

A full checkpoint is written with these as second names of its parts, so that Catalyst's
`unpack_checkpoint` opens it. They name the tensors that are there already, which `torch.save` then
writes once. Our own readers drop them before anything is counted, and files without them are read
alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODEL, _CRITERION = "model_state_dict", "criterion_state_dict"
_SAME = {"optimizer_state_dict": "optimizer", "scheduler_state_dict": "scheduler"}
"""Catalyst's name → ours, where the part is the same."""
_ALIASES = frozenset((_MODEL, _CRITERION, *_SAME))
_PREFIX = "backbone."


def backbone_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The network's own weights in the state of a method, by the network's own names."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in model.items()
        if name.startswith(_PREFIX)
    }


def with_aliases(content: Mapping[str, Any]) -> dict[str, Any]:
    """The full checkpoint `content` with Catalyst's names; nothing is copied.

    `model_state_dict` holds the network's weights, as a weights-only checkpoint does. The loss is
    the method's, so `criterion_state_dict` is empty; a run without a scheduler has no
    `scheduler_state_dict`.
    """
    same = {alias: content[name] for alias, name in _SAME.items() if content.get(name) is not None}
    return {**content, _MODEL: backbone_of(content["model"]), _CRITERION: {}, **same}


def without_aliases(content: dict[Any, Any]) -> dict[Any, Any]:
    """What a file holds, without the second names if it is a full checkpoint of ours.

    `content` is foreign data, so it is read by the class's own methods.
    """
    if not is_full(content):
        return content
    return {key: value for key, value in dict.items(content) if key not in _ALIASES}


def is_full(content: dict[Any, Any]) -> bool:
    """Whether `content` has what marks a full checkpoint of ours, and no other program's file."""
    return (
        isinstance(dict.get(content, "format"), int)
        and isinstance(dict.get(content, "model"), Mapping)
        and dict.__contains__(content, "position")
    )
