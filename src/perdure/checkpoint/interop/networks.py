"""Several networks in one Catalyst file (`model_<name>_state_dict`): `checkpoint.map` places them.

`checkpoint.map={encoder: backbone, classifier: backbone.head}` says which module of this run's
network takes the weights of which network in the file.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.checkpoint.interop.foreign import Opened, shorten
from perdure.errors import UserError

_ROOT = "backbone"
_KEY = "checkpoint.map"


def placed(
    opened: Opened, places: Mapping[str, str], backbone: Backbone
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the networks in a file, by the names that they have within `backbone`.

    Args:
        opened: the file.
        places: name of a network in the file → `backbone`, or a module in it (`backbone.head`).
        backbone: the network of this run.

    Returns:
        The weights, for `weights.fill`, and a line on the networks that `places` leaves out.

    Raises:
        UserError: the file has no such network, the backbone no such module, or two networks
            would give the same tensor.
    """
    _require_networks(opened, places)
    modules = _modules(backbone)
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for network, place in places.items():
        if place not in modules:
            raise UserError(
                f"{_KEY}.{network}={place}: this run has no such module; "
                f"{', '.join(modules)} are accepted"
            )
        prefix = place.removeprefix(_ROOT).removeprefix(".")
        for name, tensor in opened.networks[network].items():
            full = f"{prefix}.{name}" if prefix else name
            if full in found:
                raise UserError(
                    f"{_KEY}={_shown(places)}: {origin[full]} and {network} of "
                    f"{opened.path.name} both give {full}; another module must take one of them"
                )
            found[full], origin[full] = tensor, network
    left_out = [name for name in opened.networks if name not in places]
    return found, [f"left out (not in {_KEY}): {', '.join(left_out)}"] if left_out else []


def with_hint(error: UserError, opened: Opened) -> UserError:
    """`error` of loading a file without a map, with a word on the networks in it."""
    if not opened.networks:
        return error
    first = next(iter(opened.networks))
    return UserError(
        f"{error}; {opened.path.name} holds the networks {', '.join(opened.networks)}, and "
        f"{_KEY}={{{first}: {_ROOT}}} takes the first for this run's network"
    )


def _require_networks(opened: Opened, places: Mapping[str, str]) -> None:
    name = opened.path.name
    if not opened.networks:
        raise UserError(
            f"{_KEY}={_shown(places)}: {name} holds no networks with names of their own; it is "
            f"loaded without {_KEY}"
        )
    if unknown := [network for network in places if network not in opened.networks]:
        raise UserError(
            f"{_KEY}={_shown(places)}: {name} holds no network {', '.join(unknown)}; it holds "
            f"{', '.join(opened.networks)}"
        )


def _modules(backbone: Backbone) -> dict[str, None]:
    """`backbone` and the modules in it that hold tensors, in order and without repetition."""
    found = {_ROOT: None}
    for name in shorten(backbone.state_dict()).values():
        parts = name.split(".")[:-1]
        found |= dict.fromkeys(".".join((_ROOT, *parts[: i + 1])) for i in range(len(parts)))
    return found


def _shown(places: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{network}: {place}" for network, place in places.items()) + "}"
