"""FSDP2 (fully sharded data parallelism): each rank holds a part of every parameter.

The whole is gathered to run a layer and to save a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from perdure.distributed.process_group import Ranks


def split(network: nn.Module, ranks: Ranks) -> None:
    """Shard every parameter of `network` over the ranks.

    Each layer or block below the top is a unit, whose parameters are gathered when it runs.
    """
    mesh = init_device_mesh(next(network.parameters()).device.type, (ranks.size,))
    for unit in [*_units(network), network]:
        fully_shard(unit, mesh=mesh)
    for unit in network.modules():
        if isinstance(unit, FSDPModule):
            # The losses of the shards add up to that of the batch: gradients are summed, not
            # averaged, which is what FSDP does by default.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)


def _units(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from _units(child)
        elif any(True for _ in child.parameters()):
            yield child


class FSDPReduction:
    """The reduce-scatter that FSDP does by itself, in the last backward pass of a step.

    Args:
        network: the network after `split`.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def begin(self, last: bool) -> None:
        if isinstance(self.network, FSDPModule):
            self.network.set_requires_gradient_sync(last)

    def take(self) -> Tensor | None:
        return None

    def finish(self, gradients: Tensor | None) -> None: ...


def reshard(network: nn.Module) -> None:
    """Free the parameters that an evaluation gathered; does nothing for a network not split."""
    if isinstance(network, FSDPModule):
        network.reshard()


def whole(value: Any) -> Any:
    """`value` with every split tensor in it gathered, on all ranks; a collective call."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(whole, value))
    return value


def like(value: Tensor, other: Tensor) -> Tensor:
    """`value`, split as `other` is."""
    if not isinstance(other, DTensor):
        return value
    value = value.to(other.device)
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def state_like(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A whole network's state, split as that of `module` is."""
    now = module.state_dict()
    return {key: like(value, now[key]) if key in now else value for key, value in state.items()}


def optimizer_state_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimizer's state, split as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries = {}
    for number, values in state["state"].items():
        p = parameters[int(number)]
        entries[number] = {
            key: like(value, p) if isinstance(value, Tensor) and value.shape == p.shape else value
            for key, value in values.items()
        }
    return {**state, "state": entries}
