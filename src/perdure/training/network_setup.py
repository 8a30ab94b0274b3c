"""The network as the settings want it: batch norm, FSDP, mixed precision (autocast), reduction."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from perdure.config.schema import Parallel, Precision
from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import OrderedReduction, OverlappedReduction, Reduction
from perdure.models.base import Method
from perdure.training.settings import Settings


def prepare_network(method: Method, ranks: Ranks, settings: Settings) -> Reduction:
    """Change the network as `settings` says; returns the reduction of the shards' gradients.

    What one process does not need is not imported.
    """
    if settings.sync_batchnorm and ranks.size > 1:
        from perdure.distributed.batch_norm import synchronize

        synchronize(method.backbone, ranks)
    if settings.parallel is Parallel.fsdp and ranks.size > 1:
        from perdure.distributed.fsdp import FSDPReduction, split

        split(method.backbone, ranks)
        return FSDPReduction(method.backbone)
    return reduction_of(method, ranks, settings)


def reduction_of(method: Method, ranks: Ranks, settings: Settings) -> Reduction:
    """What sums the shards' gradients of the parameters that the method has now."""
    parameters = method.trainable()
    if settings.exact:
        return OrderedReduction(parameters)
    return OverlappedReduction(parameters, ranks)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision of the forward pass; nothing in full precision."""
    if precision is Precision.fp32:
        return nullcontext()
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float16
    return torch.autocast(device.type, dtype=dtype)
